from tiny_runs import head, images, pictures, quick, trained

__all__ = ["head", "images", "pictures", "quick", "trained"]
