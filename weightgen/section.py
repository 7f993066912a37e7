"""The base of every recipe section: frozen, strict, documented under each field."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of options; the text under each field is its help, its documentation and its schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
