"""Inferences from COMET-ATOMIC-2020 (BART), as the lineage makes them, in large de-duplicated batches.

The model's folder is local and holds safetensors; nothing is downloaded and no code from the folder is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ctsm.errors import CtsmError, MissingExtraError
from ctsm.files import read_json, sha256_of, write_json
from ctsm.knowledge.inference import EMPTY, PHRASES, RELATIONS, SOURCE_FILE, Inferences, clean_phrases

DEFAULT_DIRECTORY = Path("data/comet-atomic_2020_BART")
"""Where `ctsm fetch comet` puts the model."""
QUERY = "{event} {relation} [GEN]"
BATCH = 32
"""Queries generated at once; each is followed by PHRASES beams."""

EVENT_WORDS = 256
"""Words of an utterance that are read; more would push the relation out of the model's window."""

_CONFIG = "config.json"
_GENERATION = "generation_config.json"
_WEIGHTS = "model.safetensors"
_DEFAULTS: dict[str, Any] = {
    "max_length": 24,
    "min_length": 0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "early_stopping": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "decoder_start_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""Every generation parameter that is passed on, with its value where the checkpoint says nothing."""


def generation_options(config: dict[str, Any], generation: dict[str, Any]) -> dict[str, Any]:
    """Return the generation parameters: the lineage's five beams, all else fixed from the checkpoint.

    `task_specific_params["summarization"]` of config.json goes before generation_config.json, that before the other
    values of config.json, and those before this module's defaults. Only parameters named in the defaults are taken.
    """
    special = (config.get("task_specific_params") or {}).get("summarization") or {}
    options = dict(_DEFAULTS)
    for layer in (config, generation, special):
        options.update({name: layer[name] for name in _DEFAULTS if layer.get(name) is not None})
    return options | {"num_beams": PHRASES, "num_return_sequences": PHRASES, "do_sample": False}


def query_event(utterance: str) -> str:
    """Return an utterance as COMET reads it: lower-case, contractions expanded, tokens joined by spaces."""
    from ctsm.text.tokenise import tokenise

    return " ".join(tokenise(utterance)[:EVENT_WORDS])


class CometSource:
    """The backend `comet`: five beams for each relation from a COMET-ATOMIC-2020 BART in a local folder."""

    name = "comet"

    def __init__(
        self, directory: Path, recorded: dict[str, Any] | None = None, recorded_in: Path | None = None
    ) -> None:
        """Open a model folder, or remember what `save` recorded of one and open it at the first use."""
        self._directory = directory.absolute()
        self._recorded = recorded
        self._recorded_in = recorded_in
        self._loaded: tuple[Any, Any] | None = None
        self._description = recorded["source"] if recorded is not None else self._inspect()

    @classmethod
    def load(cls, recorded: dict[str, Any], path: Path) -> CometSource:
        """Make a source from the `source.json` at `path`; the model folder is looked for at the first `infer`."""
        if not isinstance(recorded.get("directory"), str) or not isinstance(recorded.get("source"), dict):
            raise CtsmError(f"{path}: does not say which COMET model was used; copy the model directory again.")
        return cls(Path(recorded["directory"]), recorded, path)

    def _inspect(self) -> dict[str, Any]:
        """Check the model folder and return the description of the source."""
        if not self._directory.is_dir():
            raise CtsmError(f"{self._directory}: no such COMET model folder; {self._remedy()}")
        if not (self._directory / _WEIGHTS).is_file():
            raise CtsmError(f"{self._directory}: holds no {_WEIGHTS}; {self._remedy()}")
        config = read_json(self._directory / _CONFIG, "the configuration of the COMET model")
        generation: dict[str, Any] = {}
        if (self._directory / _GENERATION).is_file():
            generation = read_json(self._directory / _GENERATION, "the generation parameters of the COMET model")
        return {
            "backend": self.name,
            "model": self._directory.name,
            "sha256": sha256_of(self._directory / _WEIGHTS),
            "query": QUERY,
            "generation": generation_options(config, generation),
        }

    def _remedy(self) -> str:
        """Say how to come by the model."""
        if self._recorded_in is not None:
            return (
                f"put it there, write its place as 'directory' into {self._recorded_in}, or choose other inferences "
                "(atomic:FILE, file:FILE, none)."
            )
        return "run `ctsm fetch comet` and give its folder as comet:DIR."

    def describe(self) -> dict[str, Any]:
        """Return the model's name, the SHA-256 of its weights, the query and every generation parameter."""
        return self._description

    def save(self, directory: Path) -> None:
        """Record the model folder and the options in `source.json`; the model itself (1.6 GB) is not copied."""
        directory.mkdir(parents=True, exist_ok=True)
        record = {"backend": self.name, "directory": str(self._directory), "source": self._description}
        write_json(directory / SOURCE_FILE, record)

    def infer(self, utterances: Sequence[str]) -> list[Inferences]:
        """Generate for every distinct processed utterance and relation; an utterance without tokens has none.

        Raises:
            MissingExtraError: `transformers` is not installed.
            CtsmError: the model folder is missing, unreadable or not the one recorded.
        """
        events = [query_event(utterance) for utterance in utterances]
        distinct = [event for event in dict.fromkeys(events) if event]
        queries = [QUERY.format(event=event, relation=relation) for event in distinct for relation in RELATIONS]
        phrases = [clean_phrases(beams) for beams in self._generate(queries)] if queries else []
        width = len(RELATIONS)
        answers = {event: tuple(phrases[width * row : width * (row + 1)]) for row, event in enumerate(distinct)}
        return [answers.get(event, EMPTY) for event in events]

    def _generate(self, queries: list[str]) -> list[list[str]]:
        """Return the PHRASES beams of each query, generated in batches of similar length."""
        import torch

        tokenizer, model = self._open()
        limit = model.config.max_position_embeddings
        encoded = tokenizer(queries, truncation=True, max_length=limit)["input_ids"]
        order = sorted(range(len(queries)), key=lambda row: -len(encoded[row]))
        beams: list[list[str]] = [[] for _ in queries]
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                output = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            texts = tokenizer.batch_decode(output, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for position, row in enumerate(rows):
                beams[row] = texts[PHRASES * position : PHRASES * (position + 1)]
        return beams

    def _open(self) -> tuple[Any, Any]:
        """Load tokenizer and model once, from safetensors in the local folder only."""
        if self._loaded is not None:
            return self._loaded
        try:
            import torch
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig
        except ImportError:
            raise MissingExtraError("comet", "Inferring with COMET") from None
        found = self._inspect()
        if self._recorded is not None and found["sha256"] != self._description["sha256"]:
            raise CtsmError(f"{self._directory}: not the COMET model that was used for this model; {self._remedy()}")
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._directory, **local)
            model = AutoModelForSeq2SeqLM.from_pretrained(self._directory, use_safetensors=True, **local)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).split("\n")[0]
            raise CtsmError(f"{self._directory}: cannot load the COMET model ({reason}); {self._remedy()}") from error
        # Replaced as a whole, so that nothing but the recorded parameters counts.
        model.generation_config = GenerationConfig(**self._description["generation"])  # type: ignore[no-untyped-call]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._loaded = (tokenizer, model.to(device).eval())
        return self._loaded
