"""Predict with several adapters on one base, which is read once; the adapters take turns."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.checkpoints.peft import SwitchableAdapters
from finetune.checkpoints.sources import locate_weights, resolve_auto
from finetune.errors import WeightsError
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.tasks.classify.bundle import Bundle, bundle_of, read_card
from finetune.training.precision import device_type


def adapted_bundles(base: str, adapters: Sequence[Path]) -> Iterator[tuple[str, Bundle]]:
    """Each adapter's directory and its classifier, valid until the next one is asked for.

    base: a name of weights or a directory. An adapter with our bundle.json has its own labels, length, temperature and
    threshold; any other has the labels LABEL_0, LABEL_1 and so on, as in transformers. Raises WeightsError.
    """
    loaded = locate_weights(resolve_auto(base), fetch=True).load()
    if not isinstance(loaded.model, GPT):
        raise WeightsError(f"{base}: not the weights of a language model", do="Give the base of the adapters.")
    gpt, tokenizer = loaded.model.to(device_type()), loaded.tokenizer
    switch = SwitchableAdapters(gpt, {str(directory): directory for directory in adapters})
    for directory in adapters:
        model, file = switch.use(str(directory)), directory / "bundle.json"
        if not isinstance(model, Classifier):
            raise WeightsError(f"{directory}: an adapter without a classifier's head", do="See: finetune generate")
        model = model.to(device_type())
        if not file.exists():
            labels = [f"LABEL_{number}" for number in range(model.head.out_features)]
            yield str(directory), Bundle(model, tokenizer, labels, None, gpt.config.context, None, 1.0)
            continue
        card = read_card(file)
        if len(card.labels) != model.head.out_features or card.tokenizer_sha256 != tokenizer.fingerprint():
            raise WeightsError(f"{file}: does not fit the adapter or its base", do="Export the run again.")
        yield str(directory), bundle_of(card, model, tokenizer)
