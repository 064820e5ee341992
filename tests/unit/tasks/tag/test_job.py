"""A word's tag is read at its last token, sees nothing that follows, and does not depend on its batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from finetune.models.gpt import IGNORE
from finetune.recipe import Train
from finetune.tasks.tag.data import Tokens, encode_words
from finetune.tasks.tag.job import Examples, build_job, predict_tags, word_loss
from finetune.tasks.tag.model import Tagger
from finetune.tasks.tag.sentences import Sentence
from finetune.tokenizer import Tokenizer

TAGS = ["O", "B-place", "I-place"]
SENTENCES = [
    Sentence(0, ["Rain", "in", "Oslo"], ["O", "O", "B-place"]),
    Sentence(1, ["No"], ["O"]),
    Sentence(2, ["New", "York", "is", "wet"], ["B-place", "I-place", "O", "O"]),
]


@pytest.fixture(scope="module")
def tokenizer(root_weights):
    return Tokenizer.from_directory(root_weights)


@pytest.fixture(scope="module")
def root_weights():
    from finetune.checkpoints.sources import locate_weights

    return locate_weights("mini").directory


@pytest.fixture(scope="module")
def model(tiny):
    from finetune.checkpoints.store import load_checkpoint

    return Tagger(load_checkpoint(tiny).body, len(TAGS)).initialise_head(0).eval()


@pytest.fixture(params=["encoder", "llama"])
def other(request):
    """A tagger on a body that transformers has no class for, or none with this head."""
    from finetune.models.encoder import Encoder
    from finetune.models.transformer import LLAMA, Transformer, TransformerConfig
    from finetune.recipe import Recipe
    from finetune.tasks.tag.task import TASK, TagPrepared

    sizes = {"vocab_size": Tokenizer.of_bytes().vocab_size, "context": 48, "width": 16, "layers": 2, "heads": 2}
    body = (
        Encoder(TransformerConfig(**sizes))
        if request.param == "encoder"
        else Transformer(TransformerConfig(**sizes, **LLAMA))
    )
    prepared = TagPrepared({}, TAGS, 12)
    return TASK.build_model(Recipe(task="tag"), body.initialise(0, std=0.2), prepared).eval()


def tokens_of(sentences, max_length=32):
    return encode_words(Tokenizer.of_bytes(), [own.words for own in sentences], max_length)


def test_words_are_encoded_as_the_text_they_make(tokenizer):
    sentences = [["Anna", "Berg", "'s", "co-op", ",", "in", "1984", "."], ["\u00c5lesund", "\u201d", "..."], ["x"]]
    tokens = encode_words(tokenizer, sentences, 256)
    for words, pieces, lasts in zip(sentences, tokens.pieces, tokens.lasts, strict=True):
        assert pieces == tokenizer.encode(" ".join(words))
        for at, last in enumerate(lasts):
            assert tokenizer.decode(pieces[: last + 1]) == " ".join(words[: at + 1])


def test_a_word_that_does_not_fit_has_no_place():
    tokens = encode_words(Tokenizer.of_bytes(), [["ab", "cd", "ef"]], 6)
    assert tokens.lasts[0] == [1, 4] and len(tokens.pieces[0]) == 6


def test_a_tag_does_not_depend_on_the_batch_or_on_what_follows(model):
    alone = [predict_tags(model, tokens_of([own]))[0] for own in SENTENCES]
    together = predict_tags(model, tokens_of(SENTENCES))
    for one, other, own in zip(alone, together, SENTENCES, strict=True):
        assert one.shape == (len(own.words), len(TAGS)) and np.allclose(one, other, atol=1e-5)
    longer = Sentence(0, [*SENTENCES[0].words, "again"], [*SENTENCES[0].tags, "O"])
    assert np.allclose(predict_tags(model, tokens_of([longer]))[0][:3], alone[0], atol=1e-5)


def test_with_an_encoder_a_word_attends_to_both_sides_and_never_to_padding(other):
    alone = [predict_tags(other, tokens_of([own]))[0] for own in SENTENCES]
    for one, own in zip(alone, predict_tags(other, tokens_of(SENTENCES)), strict=True):
        assert np.allclose(one, own, atol=1e-5)
    longer = Sentence(0, [*SENTENCES[0].words, "again"], [*SENTENCES[0].tags, "O"])
    difference = np.abs(predict_tags(other, tokens_of([longer]))[0][:3] - alone[0]).max()
    assert difference > 1e-3 if other.body.kind == "an encoder" else difference < 1e-5


def test_other_bodies_are_written_in_our_own_layout_and_read_back(other, tmp_path):
    from finetune.errors import WeightsError
    from finetune.tasks.tag.bundle import TagBundle, load_tagger
    from finetune.tasks.tag.export import compare_read_back, write_tagger

    tokens = tokens_of(SENTENCES)
    write_tagger(tmp_path / "hf", other, Tokenizer.of_bytes(), card())
    exported = compare_read_back(tmp_path / "hf", other, tokens)
    assert exported.compared and exported.max_logit_difference == 0 and "8 words" in exported.summary
    again = TagBundle.load(tmp_path / "hf")
    for ours, theirs in zip(predict_tags(again.model, tokens), predict_tags(other, tokens), strict=True):
        assert np.array_equal(ours, theirs)

    assert "head.weight" not in dict(other.body.named_parameters()), "the tags replace the output matrix"
    with torch.no_grad():
        other.head.bias.add_(torch.tensor([0.0, 0.01, 0.0]))  # no longer what was written
    with pytest.raises(WeightsError, match="finetune reads the export differently"):
        compare_read_back(tmp_path / "hf", other, tokens)
    with pytest.raises(WeightsError, match="classifier.weight does not fit bundle.json"):
        load_tagger(tmp_path / "hf", len(TAGS) + 1)


def card():
    from finetune.evaluation.results import StartWeights
    from finetune.tasks.tag.bundle import TagBundleCard

    return TagBundleCard(
        schema_version=1,
        task="tag",
        tags=TAGS,
        max_length=12,
        weights=StartWeights(name="tiny", source="", licence="", sha256={}, fallback=False, note=""),
        tokenizer_sha256=Tokenizer.of_bytes().fingerprint(),
        data_sha256="",
        recipe_sha256="",
    )


def test_the_loss_is_the_mean_over_words(model):
    tokens = tokens_of(SENTENCES)
    part = Examples.of(SENTENCES, tokens, TAGS)
    job = build_job(model, Train(), TAGS, part, part, torch.device("cpu"))
    ids, lasts, targets = job.batch([0, 1, 2])
    assert targets.tolist() == [[0, 0, 1, IGNORE], [0, IGNORE, IGNORE, IGNORE], [1, 2, 0, 0]]
    nats = word_loss(predict_tags(model, tokens), part.targets)
    with torch.no_grad():
        assert job.loss_sum(model, (ids, lasts, targets)).item() == pytest.approx(nats.sum(), rel=1e-5)
    assert job.weights == [3.0, 1.0, 4.0]
    found = job.validate(model)
    assert found["log_loss"] == pytest.approx(nats.sum() / 8, rel=1e-5) and set(found) >= {"accuracy", "f1_macro"}


@pytest.mark.parametrize("installed", [True, False])
def test_logits_are_those_of_transformers_or_a_plain_reader(model, tmp_path, monkeypatch, installed):
    from finetune.export import readers
    from finetune.tasks.tag.bundle import TagBundle
    from finetune.tasks.tag.export import compare, write_tagger

    own = Tokenizer.of_bytes()
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    write_tagger(tmp_path / "hf", model, own, replace(card(), max_length=32))
    monkeypatch.setattr(readers, "has_transformers", lambda: installed)
    texts = [own.text for own in SENTENCES]
    exported = compare(tmp_path / "hf", model, tokens_of(SENTENCES), texts)
    assert exported.compared and exported.same_labels == 8 and exported.max_logit_difference < 1e-5
    assert exported.summary.endswith("transformers is not installed") is not installed

    again = TagBundle.load(tmp_path / "hf")
    short = tokens_of(SENTENCES)
    for ours, theirs in zip(predict_tags(again.model, short), predict_tags(model, short), strict=True):
        assert np.array_equal(ours, theirs)

    with torch.no_grad():
        model.head.bias.add_(torch.tensor([0.0, 0.01, 0.0]))  # no longer what was written
    from finetune.errors import WeightsError

    reader = "transformers" if installed else "a reader in plain numpy"
    with pytest.raises(WeightsError, match=f"{reader} reads the export"):
        compare(tmp_path / "hf", model, tokens_of(SENTENCES), texts)


def test_the_lines_of_the_readme_give_the_bundle_s_tags(model, tmp_path):
    from finetune.tasks.tag.bundle import TagBundle
    from finetune.tasks.tag.export import Exported, readme, write_tagger

    write_tagger(tmp_path / "hf", model, Tokenizer.of_bytes(), card())
    text = readme("run", card(), Exported(True, "equal"), [])
    code = "\n".join(
        line[4:] for line in text.splitlines() if line.startswith("    ") and "finetune predict" not in line
    )
    code = code.replace('"DIRECTORY"', repr(str(tmp_path / "hf")))
    bundle = TagBundle.load(tmp_path / "hf")
    for words in (["Rain", "in", "Oslo"], ["\u00c5s", "\u00e9", "."], ["A", "long", "sentence", "is", "truncated"]):
        found: dict = {}
        exec(code.replace("Anna lives in Oslo .", " ".join(words)), found)
        tokens = encode_words(Tokenizer.of_bytes(), [words], bundle.max_length)
        [expected] = predict_tags(bundle.model, tokens)
        assert found["tags"] == [(word, TAGS[at]) for word, at in zip(words, expected.argmax(1), strict=False)]
        assert len(found["tags"]) == len(expected) and (len(expected) < len(words)) is (words[0] == "A")


def test_a_tokenizer_that_truncates_elsewhere_is_no_export(model, tmp_path):
    from finetune.errors import WeightsError
    from finetune.tasks.tag.export import compare, write_tagger

    long = Sentence(0, ["Rain"] * 5, ["O"] * 5)
    tokens = tokens_of([long], card().max_length)
    write_tagger(tmp_path / "hf", model, Tokenizer.of_bytes(), card())
    assert compare(tmp_path / "hf", model, tokens, [long.text]).compared
    write_tagger(tmp_path / "other", model, Tokenizer.of_bytes(), replace(card(), max_length=20))
    with pytest.raises(WeightsError, match="0 of 1 token lists equal"):
        compare(tmp_path / "other", model, tokens, [long.text])


def test_long_texts_are_read_in_parts_and_names_keep_their_place(model):
    from finetune.tasks.tag.bundle import TagBundle

    bundle = TagBundle(model, Tokenizer.of_bytes(), TAGS, 12)
    text = "New York, Anna's hat.\nOslo"
    for name in bundle.names([text])[0]:
        assert text[name.start : name.end] == name.text and 0 < name.probability <= 1
    [(tags, p)] = bundle.tag([["Rain", "in", "Oslo", "wet", "a-word-longer-than-all", "x"]])
    assert len(tags) == len(p) == 6 and tags[4] == "O"


def test_examples_hold_a_target_for_each_word_that_fits():
    part = Examples.of(SENTENCES[:1], tokens_of(SENTENCES[:1], max_length=8), TAGS)
    assert isinstance(part.tokens, Tokens) and part.targets == [[0, 0]]
