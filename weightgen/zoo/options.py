"""Options of how the members of a zoo are fitted; imports no torch."""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from weightgen.section import Section


class FitOptions(Section):
    """How parameters are fitted to the images of a task."""

    epochs: PositiveInt = 60
    """Steps of Adam; each looks at all images of the task."""
    learning_rate: PositiveFloat = 0.05
    """Of Adam, the same in every epoch. Rows live in the standardised space, where prototypes have unit scale."""
    local_targets: PositiveInt = 3
    """Points kept on the way, at even distances in epochs; the last is the end. At most `epochs`."""
    most_images: PositiveInt | None = None
    """Images of a class that a task is fitted to, drawn anew for each; None: all."""
    weight_decay: NonNegativeFloat = 0.0
    """Multiple of the values that is added to their gradient."""
    sharpness_aware_radius: NonNegativeFloat = 0.0
    """Length of the step uphill at whose end the gradient is taken (SAM, Foret et al. 2021); 0: none."""
    feature_noise: NonNegativeFloat = 0.0
    """Standard deviation of what is added to the standardised images anew in every epoch, in units of that of images
    around their class's prototype; 0: nothing."""

    @model_validator(mode="after")
    def _kept_apart(self) -> FitOptions:
        if self.local_targets > self.epochs:
            raise ValueError(
                f"local_targets is {self.local_targets} and epochs {self.epochs}: keep at most one an epoch"
            )
        return self

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """Epochs after which values are kept: iM/k for i = 1 … k, rounded, M the last."""
        m, k = self.epochs, self.local_targets
        return tuple((2 * i * m + k) // (2 * k) for i in range(1, k + 1))
