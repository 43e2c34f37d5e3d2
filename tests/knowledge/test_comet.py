from __future__ import annotations

import json
import shutil
import sys

import pytest

from ctsm.errors import CtsmError, MissingExtraError
from ctsm.knowledge import comet
from ctsm.knowledge.comet import CometSource, generation_options
from ctsm.knowledge.inference import EMPTY, RELATIONS, load_source, open_source

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
GENERATION = {"max_length": 12, "min_length": 3, "length_penalty": 2.0, "num_beams": 4, "no_repeat_ngram_size": 3}
UTTERANCES = [
    "I lost my keys.",
    "My neighbour's dog can't sleep, and it barks the whole night!",
    "I lost my keys.",
    "Hooray",
]
EVENTS = [
    "i lost my keys .",
    "my neighbour 's dog can not sleep , and it barks the whole night !",
    "i lost my keys .",
    "hooray",
]


def byte_characters():
    """The 256 printable stand-ins for bytes of a byte-level tokenizer."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(others)) for byte in range(256)]


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    """A random BART of a few thousand parameters with a tokenizer of single bytes, saved as a checkpoint is."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", reason="the optional dependency 'comet' is not installed")
    folder = tmp_path_factory.mktemp("comet") / "tiny-bart"
    tokens = [*SPECIALS, *byte_characters()]
    config = transformers.BartConfig(
        vocab_size=len(tokens),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=128,
        init_std=1.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        transformers.BartForConditionalGeneration(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    saved = json.loads((folder / "config.json").read_text())
    saved["task_specific_params"] = {"summarization": GENERATION}
    (folder / "config.json").write_text(json.dumps(saved))
    return folder


@pytest.fixture(scope="module")
def expected(model_directory):
    """Plain generation: one query at a time, every parameter given to `generate`."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model_directory)
    model = transformers.BartForConditionalGeneration.from_pretrained(model_directory).eval()
    answers = {}
    for event in dict.fromkeys(EVENTS):
        relations = []
        for relation in RELATIONS:
            query = tokenizer(f"{event} {relation} [GEN]", return_tensors="pt")
            with torch.no_grad():
                beams = model.generate(
                    query["input_ids"],
                    attention_mask=query["attention_mask"],
                    num_beams=5,
                    num_return_sequences=5,
                    do_sample=False,
                    max_length=12,
                    min_length=3,
                    length_penalty=2.0,
                    no_repeat_ngram_size=3,
                )
            texts = [
                " ".join(tokenizer.decode(beam, skip_special_tokens=True, clean_up_tokenization_spaces=False).split())
                for beam in beams
            ]
            relations.append(tuple(dict.fromkeys(text for text in texts if text)))
        answers[event] = tuple(relations)
    return answers


@pytest.mark.parametrize("batch", [4, 32])
def test_batches_equal_generation_one_by_one(model_directory, expected, monkeypatch, batch):
    monkeypatch.setattr(comet, "BATCH", batch)
    answers = open_source(f"comet:{model_directory}").infer(UTTERANCES)
    assert answers == [expected[event] for event in EVENTS]
    assert len({answers[0], answers[1], answers[3]}) == 3


def test_each_event_is_generated_once(model_directory, monkeypatch):
    source = CometSource(model_directory)
    asked = []
    monkeypatch.setattr(source, "_generate", lambda queries: asked.append(queries) or [["a", "none"]] * len(queries))
    answers = source.infer(["Hi there", "hi  there", "", "Hi there"])
    assert answers == [(("a",),) * 5, (("a",),) * 5, EMPTY, (("a",),) * 5]
    assert asked == [[f"hi there {relation} [GEN]" for relation in RELATIONS]]
    assert source.infer(["", " "]) == [EMPTY, EMPTY]
    assert len(asked) == 1


def test_a_very_long_utterance_keeps_within_the_window(model_directory):
    [inferences] = CometSource(model_directory).infer(["word " * 5000])
    assert all(inferences)


def test_describe_records_every_generation_parameter(model_directory):
    described = CometSource(model_directory).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["backend"] == "comet" and described["model"] == "tiny-bart"
    expected = {"num_beams": 5, "num_return_sequences": 5, "max_length": 12, "min_length": 3, "length_penalty": 2.0}
    assert described["generation"].items() >= {**expected, "do_sample": False, "no_repeat_ngram_size": 3}.items()


def test_generation_options_take_the_task_first():
    config = {"max_length": 50, "min_length": 5, "length_penalty": 3.0, "task_specific_params": None, "d_model": 16}
    assert generation_options(config, {"min_length": None, "length_penalty": 4.0})["min_length"] == 5
    config["task_specific_params"] = {"summarization": {"max_length": 7, "num_beams": 9, "prefix": "x"}}
    options = generation_options(config, {"length_penalty": 4.0, "max_length": 20})
    assert (options["max_length"], options["min_length"], options["length_penalty"]) == (7, 5, 4.0)
    assert options["num_beams"] == 5 and "prefix" not in options and "d_model" not in options
    assert generation_options({}, {})["early_stopping"] is False


def test_save_and_load_give_the_same_answers(model_directory, expected, tmp_path):
    source = CometSource(model_directory)
    source.save(tmp_path / "model")
    loaded = load_source(tmp_path / "model")
    assert loaded.describe() == source.describe()
    assert loaded.infer(["Hooray"]) == [expected["hooray"]]


def test_a_model_that_went_away_or_changed_is_missed_at_first_use(model_directory, tmp_path):
    moved = tmp_path / "comet"
    shutil.copytree(model_directory, moved)
    source = CometSource(moved)
    source.save(tmp_path / "model")
    with (moved / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(CtsmError, match="not the COMET model that was used"):
        load_source(tmp_path / "model").infer(["hi"])
    shutil.rmtree(moved)
    loaded = load_source(tmp_path / "model")
    assert loaded.describe() == source.describe()
    with pytest.raises(CtsmError, match=r"no such COMET model folder.*'directory' into .*source.json"):
        loaded.infer(["hi"])


def test_only_safetensors_are_loaded(model_directory, tmp_path):
    folder = tmp_path / "comet"
    shutil.copytree(model_directory, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CtsmError, match=r"holds no model\.safetensors; run `ctsm fetch comet`"):
        CometSource(folder)


def test_a_missing_or_damaged_folder_is_refused(model_directory, tmp_path):
    with pytest.raises(CtsmError, match="no such COMET model folder"):
        open_source(f"comet:{tmp_path / 'none'}")
    folder = tmp_path / "comet"
    shutil.copytree(model_directory, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CtsmError, match="cannot load the COMET model"):
        CometSource(folder).infer(["hi"])
    (folder / "config.json").write_text("{")
    with pytest.raises(CtsmError, match="configuration of the COMET model"):
        CometSource(folder)


def test_a_missing_extra_is_named(model_directory, monkeypatch):
    source = CometSource(model_directory)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"ctsm\[comet\]"):
        source.infer(["hi"])
