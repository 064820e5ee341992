"""Registry rows: which checkpoints and data sets have a name, where they come from, and their hashes."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, StringConstraints, model_validator

from finetune.config import Settings, read_toml, validate
from finetune.errors import FetchError, RecipeError
from finetune.hub.assets import asset

# Names become parts of paths, so they cannot leave their directory.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Row = TypeVar("Row", bound=Settings)


class FileSpec(Settings):
    """What is known of a file: none where nobody has pinned it."""

    size_bytes: int | None = Field(None, ge=0, alias="bytes", description="size in bytes")
    sha256: Sha256 | None = Field(None, description="sha256 of the content, in hex")


class WeightsRow(Settings):
    """A GPT-2 checkpoint on the Hugging Face hub at one commit."""

    name: Name = Field(description="what a recipe calls it")
    repo: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", description="owner/name on the hub")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="commit, never a branch")
    files: dict[Name, FileSpec] = Field(description="weights or shards with their index, vocabulary, merges")
    layers: int = Field(ge=1, description="number of blocks")
    width: int = Field(ge=1, description="channels of the residual stream")
    heads: int = Field(ge=1, description="attention heads of a block")
    context: int = Field(1024, ge=1, description="longest input in tokens")
    vocab_size: int = Field(50257, ge=1, description="rows of the token embedding")
    parameters: int | None = Field(None, ge=1, description="number of weights, the tied head counted once")
    licence: str = Field("", description="licence of the weights")
    description: str = Field("", description="one line for `weights ls`")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.width % self.heads:
            raise ValueError("heads must divide width")
        tensors = {file for file in self.files if file.endswith(".safetensors")}
        index = {"model.safetensors.index.json"} & set(self.files)
        if tensors != {"model.safetensors"} and not (tensors and index):
            raise ValueError("files must hold model.safetensors, or shards and model.safetensors.index.json")
        if set(self.files) != tensors | index | {"vocab.json", "merges.txt"}:
            raise ValueError("files must hold the weights, vocab.json, merges.txt and nothing else")
        return self


class Archive(Settings):
    """The zip file that holds a data file on the network."""

    url: str = Field(pattern=r"^(https://|http://127\.0\.0\.1[:/])", description="address of the zip file")
    member: str = Field(min_length=1, description="the one member that is read")
    sha256: Sha256 | None = Field(None, description="sha256 of the zip file; the member's own decides")


class DataRow(Settings):
    """A data set of one file, and how that file is read."""

    name: Name = Field(description="what a recipe calls it")
    files: dict[Name, FileSpec] = Field(
        min_length=1, max_length=1, description="name of the data file, with its size and sha256"
    )
    archive: Archive | None = Field(None, description="where the network has it; none: mirror only")
    format: Literal["tsv", "csv"] = Field(description="how a row is written")
    header: bool = Field(True, description="whether the first line names the columns")
    quoting: bool = Field(True, description='whether " quotes a field')
    columns: list[str] = Field([], description="column names of a file without a header")
    fallback: str | None = Field(None, description="name of the sample that stands in for it offline")
    licence: str = Field("", description="licence of the data")
    citation: str = Field("", description="who to cite")
    doi: str = Field("", description="digital object identifier")
    description: str = Field("", description="one line on the content")

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.spec.sha256 is None or self.spec.size_bytes is None:
            raise ValueError("the file of a data row needs bytes and sha256")
        return self

    @property
    def size_bytes(self) -> int:
        """Bytes of the row's one file."""
        assert self.spec.size_bytes is not None, "a data row is pinned"
        return self.spec.size_bytes

    @property
    def file(self) -> str:
        """The name of the row's one file."""
        return next(iter(self.files))

    @property
    def spec(self) -> FileSpec:
        """Size and hash of the row's one file."""
        return self.files[self.file]


class _Names(Settings):
    """The top level of a registry file."""

    weights: dict[str, dict] = Field({}, description="a table for each checkpoint")
    data: dict[str, dict] = Field({}, description="a table for each data set")


def weights_registry() -> dict[str, WeightsRow]:
    """Every weights row by name, those of ``FINETUNE_REGISTRY`` first."""
    return _rows("weights", WeightsRow)


def data_registry() -> dict[str, DataRow]:
    """Every data row by name, those of ``FINETUNE_REGISTRY`` first."""
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
