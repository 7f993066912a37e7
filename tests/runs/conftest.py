from tiny_runs import head, images, pictures, quick, trained, walked

__all__ = ["head", "images", "pictures", "quick", "trained", "walked"]
