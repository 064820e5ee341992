"""Registry rows: the named checkpoints and data sets, their sources and their hashes."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, StringConstraints, model_validator

from finetune.config import Settings, read_toml, validate
from finetune.errors import FetchError, RecipeError
from finetune.hub.assets import asset

# Names become parts of paths, so the pattern allows nothing that could leave the directory.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Row = TypeVar("Row", bound=Settings)


class FileSpec(Settings):
    """The pinned size and hash of a file; None if not pinned."""

    size_bytes: int | None = Field(None, ge=0, alias="bytes", description="size in bytes")
    sha256: Sha256 | None = Field(None, description="sha256 of the content, in hex")


class WeightsRow(Settings):
    """A GPT-2 checkpoint on the Hugging Face hub at one commit."""

    name: Name = Field(description="name in a recipe")
    repo: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", description="owner/name on the hub")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="a commit, not a branch")
    files: dict[Name, FileSpec] = Field(description="weights or shards with their index, vocabulary, merges")
    layers: int = Field(ge=1, description="number of blocks")
    width: int = Field(ge=1, description="channels of the residual stream")
    heads: int = Field(ge=1, description="attention heads per block")
    context: int = Field(1024, ge=1, description="longest input in tokens")
    vocab_size: int = Field(50257, ge=1, description="rows of the token embedding")
    parameters: int | None = Field(None, ge=1, description="number of parameters; the tied head counts once")
    licence: str = Field("", description="licence of the weights")
    description: str = Field("", description="one line for `weights ls`")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.width % self.heads:
            raise ValueError("heads must divide width")
        tensors = {file for file in self.files if file.endswith(".safetensors")}
        index = {"model.safetensors.index.json"} & set(self.files)
        if tensors != {"model.safetensors"} and not (tensors and index):
            raise ValueError("files must list model.safetensors, or shards and model.safetensors.index.json")
        if set(self.files) != tensors | index | {"vocab.json", "merges.txt"}:
            raise ValueError("files must list the weights, vocab.json, merges.txt and nothing else")
        return self


class Archive(Settings):
    """The zip file on the network that contains a data file."""

    url: str = Field(pattern=r"^(https://|http://127\.0\.0\.1[:/])", description="URL of the zip file")
    member: str = Field(min_length=1, description="the one member that is read")
    sha256: Sha256 | None = Field(
        None, description="sha256 of the zip file; a different one causes only a warning if the member is right"
    )


class DataRow(Settings):
    """A data set in one file, and how to read it."""

    name: Name = Field(description="name in a recipe")
    files: dict[Name, FileSpec] = Field(
        min_length=1, max_length=1, description="name of the data file, with its size and sha256"
    )
    archive: Archive | None = Field(None, description="where to download it; none: from a mirror only")
    format: Literal["tsv", "csv"] = Field(description="file format")
    header: bool = Field(True, description="whether the first line has the column names")
    quoting: bool = Field(True, description='whether " quotes a field')
    columns: list[str] = Field([], description="column names of a file without a header")
    fallback: str | None = Field(None, description="name of the sample that replaces it offline")
    licence: str = Field("", description="licence of the data")
    citation: str = Field("", description="publication to cite")
    doi: str = Field("", description="digital object identifier")
    description: str = Field("", description="one line about the content")

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.spec.sha256 is None or self.spec.size_bytes is None:
            raise ValueError("the file of a data row needs bytes and sha256")
        return self

    @property
    def size_bytes(self) -> int:
        """The size of the row's only file in bytes."""
        assert self.spec.size_bytes is not None, "a data row is pinned"
        return self.spec.size_bytes

    @property
    def file(self) -> str:
        """The name of the row's only file."""
        return next(iter(self.files))

    @property
    def spec(self) -> FileSpec:
        """The size and hash of the row's only file."""
        return self.files[self.file]


class _Names(Settings):
    """The top level of a registry file."""

    weights: dict[str, dict] = Field({}, description="one table per checkpoint")
    data: dict[str, dict] = Field({}, description="one table per data set")


def weights_registry() -> dict[str, WeightsRow]:
    """Every weights row by name; rows in ``FINETUNE_REGISTRY`` take precedence."""
    return _rows("weights", WeightsRow)


def data_registry() -> dict[str, DataRow]:
    """Every data row by name; rows in ``FINETUNE_REGISTRY`` take precedence."""
    return _rows("data", DataRow)


def _rows(kind: str, schema: type[Row]) -> dict[str, Row]:
    added = os.environ.get("FINETUNE_REGISTRY")
    paths = ([Path(added)] if added else []) + [asset(kind, "registry.toml")]
    rows: dict[str, Row] = {}
    for path in paths:
        try:
            see = f"{kind}/README.md"
            tables = getattr(validate(_Names, read_toml(path), str(path), see), kind)
            for name, table in tables.items():
                source = f"{path}: [{kind}.{name}]"
                rows.setdefault(name, validate(schema, {"name": name} | table, source, see))
        except RecipeError as error:
            raise FetchError(error.what, got=error.got, known=error.known, do=error.do) from error
    return rows
