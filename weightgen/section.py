"""The base class of every group of options in a recipe."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of options; the text under each field is its help, its documentation and its schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
