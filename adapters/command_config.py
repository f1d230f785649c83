"""What the config of a run that is a command may say: checked where a run is asked for, by whoever asks."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from reprieve.adapters.secrets import checked_source
from reprieve.models.text import is_plain_text


def _plain(value: str) -> str:
    if not is_plain_text(value):
        raise ValueError("must not hold a NUL or half a surrogate pair")
    return value


def _nameable(name: str) -> str:
    if not name or "=" in name:
        raise ValueError("a variable's name must not be empty or hold '='")
    return name


Plain = Annotated[str, AfterValidator(_plain)]
Name = Annotated[Plain, AfterValidator(_nameable)]
SecretSource = Annotated[Plain, AfterValidator(checked_source)]


class CommandConfig(BaseModel):
    """The config of a run that is a command on the worker's host."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: list[Plain] = Field(min_length=1, description="The program and its arguments; no shell is involved.")
    env: dict[Name, Plain] = Field(default_factory=dict, description="Added to the worker's environment.")
    cwd: Plain | None = Field(default=None, description="The folder to run in; the worker's own by default.")
    stdin: Plain | None = Field(default=None, description="Text given on standard input; nothing by default.")
    secrets: dict[Name, SecretSource] = Field(
        default_factory=dict,
        description="Variables of the command whose values the worker has, as env:VARIABLE or file:/absolute/path, "
        "and which are masked in what the command prints.",
    )
    pty: bool = Field(
        default=False,
        description="Give the command a terminal: programs that buffer their output when it goes to a pipe then print "
        "each line at once. Standard output and standard error are then one stream, stdout.",
    )

    @model_validator(mode="after")
    def _each_variable_once(self) -> Self:
        if both := sorted(self.env.keys() & self.secrets.keys()):
            raise ValueError(f"env and secrets both name {', '.join(both)}; give each variable in one of them")
        return self
