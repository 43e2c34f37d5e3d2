from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from safetensors import safe_open

from ctsm.errors import CtsmError
from ctsm.resources import comet
from ctsm.resources.catalogue import CATALOGUE
from ctsm.resources.comet import SHARED, TIED, convert, convert_archive, main
from ctsm.resources.fetch import fetch

LIMIT = 10_000_000
VOCABULARY, WIDTH = 11, 4


class Trigger:
    """Unpickling this runs a command of the attacker's choice."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__("os").system, (f"touch {self.witness}",)


def tensors_of_a_tied_checkpoint() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shared = torch.randn(VOCABULARY, WIDTH, generator=generator)
    base = torch.randn(6, WIDTH, generator=generator)
    return {
        SHARED: shared,
        **dict.fromkeys(TIED, shared),
        "model.encoder.first": base[:3],  # two views of one piece of memory
        "model.encoder.second": base[2:],
        "model.decoder.turned": base.t(),  # not contiguous
        "model.decoder.half": torch.randn(3, generator=generator).half(),
        "final_logits_bias": torch.zeros(1, VOCABULARY),
    }


def write_checkpoint(folder: Path, content: object, *, modern: bool = True, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=modern)
    settings = {"model_type": "bart", "vocab_size": VOCABULARY, "d_model": WIDTH, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text('{"<s>": 0}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    return folder


def read(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as source:
        return {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118


@pytest.mark.parametrize("modern", [True, False])
def test_every_tensor_arrives_once_and_unchanged(tmp_path, modern):
    tensors = tensors_of_a_tied_checkpoint()
    source = write_checkpoint(tmp_path / "in", tensors, modern=modern)
    convert(source, tmp_path / "out")
    found = read(tmp_path / "out" / "model.safetensors")
    assert set(found) == set(tensors) - set(TIED)
    for name, tensor in found.items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])
    names = ["config.json", "conversion.json", "merges.txt", "model.safetensors", "tokenizer_config.json", "vocab.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    for entry, path in ((record["source"], source), (record["result"], tmp_path / "out")):
        content = (path / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
    assert record["left_out_as_tied"] == list(TIED)


def test_embeddings_that_differ_or_are_not_tied_are_kept(tmp_path):
    tensors = tensors_of_a_tied_checkpoint()
    tensors["lm_head.weight"] = tensors[SHARED] + 1
    convert(write_checkpoint(tmp_path / "in", tensors), tmp_path / "out")
    assert set(read(tmp_path / "out" / "model.safetensors")) == set(tensors) - set(TIED[:2])
    convert(write_checkpoint(tmp_path / "in", tensors, tie_word_embeddings=False), tmp_path / "out")
    found = read(tmp_path / "out" / "model.safetensors")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("where", ["alone", "beside the tensors"])
def test_hostile_pickle_is_refused_and_never_run(tmp_path, modern, where):
    trigger = Trigger(tmp_path / "owned")
    content = trigger if where == "alone" else {**tensors_of_a_tied_checkpoint(), "x": trigger}
    source = write_checkpoint(tmp_path / "in", content, modern=modern)
    with pytest.raises(CtsmError, match="cannot be loaded as weights only") as caught:
        convert(source, tmp_path / "out")
    assert "False" not in str(caught.value)  # torch's own text recommends the unsafe way
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    torch.load(source / "pytorch_model.bin", weights_only=False)  # the trap itself works
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(2)], "list"),
        ({}, "dict"),
        ({SHARED: torch.zeros(VOCABULARY, WIDTH), "x": 3}, "'x' is not a plain named tensor"),
        ({SHARED: torch.zeros(VOCABULARY, WIDTH), 5: torch.zeros(1)}, "5 is not a plain named tensor"),
        ({SHARED: torch.zeros(VOCABULARY, WIDTH).to_sparse()}, "not a plain named tensor"),
        ({SHARED: torch.full((VOCABULARY, WIDTH), float("nan"))}, "not finite"),
        ({SHARED: torch.zeros(VOCABULARY + 1, WIDTH)}, r"\(12, 4\), but config.json says \(11, 4\)"),
        ({"other": torch.zeros(1)}, "shape None"),
    ],
)
def test_other_content_is_refused(tmp_path, content, said):
    source = write_checkpoint(tmp_path / "in", content)
    with pytest.raises(CtsmError, match=said):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_wrong_files_are_named(tmp_path):
    source = write_checkpoint(tmp_path / "in", tensors_of_a_tied_checkpoint(), model_type="gpt2")
    with pytest.raises(CtsmError, match="does not describe a BART model"):
        convert(source, tmp_path / "out")
    (source / "vocab.json").unlink()
    with pytest.raises(CtsmError, match=r"vocab\.json: no such file"):
        convert(source, tmp_path / "out")
    (source / "pytorch_model.bin").write_bytes((source / "pytorch_model.bin").read_bytes()[:-700])
    (source / "vocab.json").write_text("{}")
    with pytest.raises(CtsmError, match="weights only"):
        convert(source, tmp_path / "out")


def test_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    source = write_checkpoint(tmp_path / "in", tensors_of_a_tied_checkpoint())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for place in ("ctsm.resources.comet.shutil.copyfile", "ctsm.resources.comet.write_json", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(OSError, match="No space"):
                convert(source, tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_program_answers_with_one_line(tmp_path, capsys, monkeypatch):
    assert main([]) == 2
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True, True]
    assert "no such file" in lines[1]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "place")

    monkeypatch.setattr(comet, "convert", full)
    assert main(["a", "b"]) == 2
    assert "error: place: the disk is full" in capsys.readouterr().err


def archive_of(folder: Path, behave) -> bytes:
    return behave.zip_of({f"comet-atomic_2020_BART/{path.name}": path.read_bytes() for path in folder.iterdir()})


def test_fetch_converts_in_a_child_process(tmp_path, publisher, behave, capsys):
    source = write_checkpoint(tmp_path / "in", tensors_of_a_tied_checkpoint())
    publisher.put(urlsplit(CATALOGUE["comet"].address).path, archive_of(source, behave))
    data = tmp_path / "data"
    assert fetch(["comet"], data, accept_terms=True, mirror=publisher.root) == [data / "comet-atomic_2020_BART"]
    assert (data / "comet-atomic_2020_BART" / "model.safetensors").is_file()
    names = ["comet-atomic_2020_BART", "comet-atomic_2020_BART.zip", "fetched.json"]
    assert sorted(path.name for path in data.iterdir()) == names
    record = json.loads((data / "fetched.json").read_text())["resources"]["comet"]
    assert "comet-atomic_2020_BART/model.safetensors" in record["files"]
    assert f"--inferences comet:{data / 'comet-atomic_2020_BART'}" in capsys.readouterr().out
    fetch(["comet"], data, mirror=publisher.root)
    assert "already there, verified" in capsys.readouterr().out


def test_child_refuses_a_hostile_archive(tmp_path, behave):
    content = {**tensors_of_a_tied_checkpoint(), "x": Trigger(tmp_path / "owned")}
    source = write_checkpoint(tmp_path / "in", content)
    archive = tmp_path / "comet.zip"
    archive.write_bytes(archive_of(source, behave))
    with pytest.raises(CtsmError, match=r"comet\.zip/pytorch_model\.bin: .*weights only"):
        convert_archive(archive, tmp_path / "out", LIMIT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comet.zip", "in"]


@pytest.mark.parametrize(("code", "said"), [(-9, "killed by signal 9"), (1, "failed with 1")])
def test_child_that_dies_without_a_word(tmp_path, behave, monkeypatch, code, said):
    archive = tmp_path / "comet.zip"
    archive.write_bytes(archive_of(write_checkpoint(tmp_path / "in", {}), behave))
    silent = subprocess.CompletedProcess([], code, "", "warning: something\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: silent)
    with pytest.raises(CtsmError, match=said + ".*memory"):
        convert_archive(archive, tmp_path / "out", LIMIT)


def test_transformers_reads_the_result(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra [comet]")
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=16,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.BartForConditionalGeneration(config).eval()
    tensors = dict(model.state_dict())
    assert set(TIED) | {SHARED} <= set(tensors)
    convert(write_checkpoint(tmp_path / "in", tensors, **config.to_diff_dict()), tmp_path / "out")
    again, report = transformers.BartForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True, local_files_only=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.tensor([[0, 5, 7, 2], [0, 9, 2, 1]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again.eval()(input_ids=ids).logits)
    assert again.lm_head.weight.data_ptr() == again.model.encoder.embed_tokens.weight.data_ptr()


def test_the_only_torch_load_is_here_and_loads_weights_only():
    calls: list[tuple[str, dict[str, object]]] = []
    for path in Path(comet.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                calls.append((path.name, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}))
    assert calls == [("comet.py", {"map_location": "'cpu'", "weights_only": "True"})]


def test_importing_the_module_does_not_import_torch():
    code = "import sys, ctsm.resources.fetch, ctsm.cli.fetch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
