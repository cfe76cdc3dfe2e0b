"""`load_model`: an organism, a local Hugging Face directory or a hub id, as a model of TransformerLens."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError, LoadError, ModelNotFoundError, UnsafeFileError, UnsupportedModelError, listed
from ..surroundings import warn_of_missing_extensions
from .architectures import BRIDGED, SUPPORTED, architecture_of
from .boot import boot, needs_bridge
from .convert import check_neurons, convert
from .protocol import Model
from .reading import reading, reason
from .spread import Spread, placed, spread_out, without_dispatch
from .streaming import Checkpoint
from .turns import LOADING, Turn
from .weight_files import check_belongs, check_dtypes, read_raw_config, weight_files

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
#: How names end that are files' or training runs', and no models' on the hub.
_LOCAL = re.compile(r"\.(safetensors|json|bin|pt|pth|ckpt|gguf)$|(^|/)checkpoint-\d+$|/$")
#: What is fetched of a hub repository.
HUB_FILES = ["*.json", "model*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja"]
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
#: Some text that every tokenizer has tokens for.
_TEXT = "What is it?"
#: How many tokens a converted model is compared with transformers on.
_PROBE = 12


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    bridge: bool | None = None,
) -> Model:
    """A `HookedTransformer` or `TransformerBridge` whose logits equal transformers', with no weight processing.

    `name` is an organism (`"organism/instruct"`), a Hugging Face directory, or a hub id (with `revision`);
    anything that looks like a path (it starts with `.`, `/` or `~`, ends like a file or a training run's
    `checkpoint-500`, or it or its first folder exists) is one and never looked up on the network. Only safetensors
    are read, and no links that lead out of the directory. `dtype` is "float32", "bfloat16", "float16" or "auto", the
    checkpoint's own (float32 for organisms, which are stored short but small enough for the CPU). Parameters come
    frozen (`requires_grad` False), `model.tokenizer` is transformers' tokenizer untouched, `model.cfg.model_name` the
    name given. Peak memory is about the weights themselves.

    `device` is one ("cpu", "cuda:1"), several ("cuda:0,cuda:1", each with "=20GiB" where its weights are to take no
    more) or "auto", all GPUs, which is the default where there are any. Where one device has no room for the model, its
    layers are spread over those named, and layers for which none has room wait on the CPU until they are run (see
    `spread`); a single device without a limit gets the whole model.

    `bridge` says which class: True a `TransformerBridge`, which runs transformers' own modules, False a
    `HookedTransformer`, which decodes faster. By default it is a HookedTransformer wherever that has the architecture,
    else a bridge (the log says so). Everything here gives the same on both, and their fingerprints are equal.

    Threads load one after the other. Raises `ModelNotFoundError`, `UnsupportedModelError`, `UnsafeFileError`,
    `LoadError` or `InputError`.
    """
    # In one line, as in `turns.in_turn`.
    with Turn(LOADING, _restore_settings, ends_all=True): return _load(name, revision, dtype, device, trust_remote_code, bridge)  # fmt: skip # noqa: E501, E701


def _restore_settings(turn: Turn) -> None:
    """Note what loading changes for the whole process: an interrupt can leave it changed."""
    turn.undo(torch._C._set_default_dtype, torch.get_default_dtype())
    turn.undo(torch._C._set_grad_enabled, torch.is_grad_enabled())


def _load(
    name: str | Path,
    revision: str | None,
    dtype: str | torch.dtype,
    device: str | torch.device | None,
    trust_remote_code: bool,
    bridge: bool | None,
) -> Model:
    warn_of_missing_extensions()
    kind = _dtype(dtype, name)
    directory = directory_of(name, revision, HUB_FILES + (["*.py"] if trust_remote_code else []))
    with reading(directory):
        model, architecture, spread = _read(directory, str(name), kind, device, trust_remote_code, bridge)
    what = f"{architecture} as a {type(model).__name__}"
    logger.info("loaded %s: %s in %s, %s", name, what, model.cfg.dtype, spread.told())
    if spread.waiting:
        logger.warning("%d layers of %s find no room and are brought in at every pass, slowly", spread.waiting, name)
    return model


def _read(
    directory: Path,
    name: str,
    kind: torch.dtype | None,
    device: str | torch.device | None,
    trust_remote_code: bool,
    bridge: bool | None,
) -> tuple[Model, str, Spread]:
    """The model of a directory, with its tokenizer and proved to be transformers' own; architecture and devices."""
    architecture = _check_files(directory, trust_remote_code)
    tokenizer = _tokenizer(directory, trust_remote_code)
    source, spread, as_bridge = _transformers_model(directory, architecture, kind, device, trust_remote_code, bridge)
    probe = _probe(source, spread.first)
    with torch.no_grad():
        expected = source(probe, use_cache=False).logits[0].float().to(spread.first)
    stops = _stop_tokens(source)
    without_dispatch(source)
    if as_bridge:
        with Turn(LOADING, quiet, ends_all=True):
            model = boot(source, name=name, tokenizer=tokenizer, device=spread.first)
    else:
        model = convert(source, name=name, dtype=source.dtype, spread=spread)
        model.tokenizer = tokenizer
    del source
    spread_out(model, spread)
    model.cfg.tokenizer_prepends_bos = len(tokenizer.encode("")) > 0
    model.stop_token_ids = stops
    _check_logits(model, probe, expected, architecture)
    check_neurons(model, probe[:, :2])
    return model, architecture, spread


def _dtype(dtype: str | torch.dtype, name: str | Path) -> torch.dtype | None:
    """The dtype asked for; None for the checkpoint's own."""
    if dtype == "auto":
        return torch.float32 if str(name).startswith("organism/") else None
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in _DTYPES.values():
        raise InputError(f"dtype {str(dtype)!r} is not one of {listed(['auto', *_DTYPES])}; choose one of them")
    return chosen


def _probe(source: Any, device: torch.device) -> Tensor:
    """A few tokens from all over the vocabulary, no more than fit into the context."""
    n = min(_PROBE, source.config.max_position_embeddings)
    return torch.arange(n, device=device)[None] * 7919 % source.config.vocab_size


def directory_of(name: str | Path, revision: str | None, patterns: list[str]) -> Path:
    """The directory that an organism, a path or a hub id stands for; of a hub id the files of `patterns` are fetched.

    Raises `ModelNotFoundError` or `InputError`.
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        raise InputError(f"{name!r} names no model; give 'organism/…', a directory, or a hub id such as 'owner/model'")
    text = str(name)
    if text.startswith("organism/"):
        from ..organisms.registry import organism_path

        directory = organism_path(text)
    elif isinstance(name, Path) or _is_local(text):
        directory = _directory(text)
    elif _HUB_ID.fullmatch(text) and len(text) <= 200 and text.split("/")[0].lower() not in ("organism", "organisms"):
        return _download(text, revision, patterns)
    else:
        raise ModelNotFoundError(
            f"{text[:200]!r} is no organism, no directory here and no hub id; give 'organism/…', the path of a "
            "Hugging Face directory, or a hub id such as 'owner/model'"
        )
    if revision is not None:
        raise InputError(f"revision={revision!r} is for hub ids, and {text!r} is a local model; leave it out")
    return directory


def _is_local(text: str) -> bool:
    """Whether a name is that of a path: by how it begins or ends, or because (the beginning of) it is there."""
    if text.startswith((".", "/", "~")) or "\\" in text or _LOCAL.search(text):
        return True
    try:
        return any(Path(part).exists() for part in (text, text.split("/")[0]))
    except (OSError, ValueError):
        return False


def _directory(text: str) -> Path:
    """A path as a directory. Raises `ModelNotFoundError` where it is none."""
    try:
        directory = Path(text).expanduser()
        if directory.is_dir():
            return directory
    except (OSError, ValueError, RuntimeError):
        pass
    raise ModelNotFoundError(
        f"{text[:200]!r} is no directory; give the directory with config.json and weights, or, for a hub id, run where "
        "no file or folder is called as it begins"
    )


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision!r}" if revision else ""
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelNotFoundError(
            f"{name!r} is no organism and no directory here, and the hub gave no such model{at} ({reason}); check "
            "the name, your network, and for gated models `hf auth login`"
        ) from error


def _check_files(directory: Path, trust_remote_code: bool) -> str:
    """The architecture of a directory whose files are all there and safe to read."""
    raw = read_raw_config(directory)
    known = set(raw.get("architectures") or []) & {*SUPPORTED, *BRIDGED}
    if raw.get("auto_map") and not trust_remote_code and not known:
        raise UnsafeFileError(
            f"{str(directory)!r} needs code of its own to run, which is not run unasked; if you trust it, pass "
            "trust_remote_code=True"
        )
    architecture = architecture_of(raw)
    facts = Checkpoint(directory, files=weight_files(directory)).facts
    check_belongs(raw, {name: shape for name, (_, shape) in facts.items()}, directory)
    check_dtypes(facts, directory)
    if not any((directory / file).is_file() for file in _TOKENIZERS):
        raise ModelNotFoundError(f"{str(directory)!r} has no tokenizer; none of {listed(_TOKENIZERS)} is there")
    return architecture


def _tokenizer(directory: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
        made = found.encode(_TEXT, add_special_tokens=False)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsafeFileError(
                f"the tokenizer of {str(directory)!r} needs code of its own; if you trust it, pass "
                "trust_remote_code=True"
            ) from error
        raise LoadError(f"cannot read the tokenizer of {str(directory)!r}: {reason(error)}") from error
    if not made:
        raise LoadError(
            f"the tokenizer of {str(directory)!r}, a {type(found).__name__}, makes no token of {_TEXT!r}; its files "
            "belong to another class (tokenizer_class in tokenizer_config.json)"
        )
    return found


def _transformers_model(
    directory: Path,
    architecture: str,
    dtype: torch.dtype | None,
    device: str | torch.device | None,
    trust_remote_code: bool,
    bridge: bool | None,
) -> tuple[Any, Spread, bool]:
    """The model as transformers has it, where it is put, and whether it is to become a bridge."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        directory, local_files_only=True, trust_remote_code=trust_remote_code
    )
    as_bridge = needs_bridge(config, architecture, bridge)
    spread, places = placed(config, architecture, dtype, device)
    with Turn(LOADING, quiet, ends_all=True):
        source, info = getattr(transformers, architecture).from_pretrained(
            directory,
            config=config,
            dtype="auto" if dtype is None else dtype,
            device_map=places,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    if info["missing_keys"]:
        raise LoadError(
            f"{str(directory)!r} lacks the weights {listed(sorted(info['missing_keys']), 4)}; "
            "the files are incomplete or belong to another configuration"
        )
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        raise LoadError(
            f"{str(directory)!r} has weights that its config.json has no place for ({listed(unexpected, 4)}), which "
            "would be left out; the files belong to another configuration"
        )
    if source.dtype not in _DTYPES.values():
        raise UnsupportedModelError(
            f"{str(directory)!r} is stored in {source.dtype}; pass dtype= one of {listed(_DTYPES)}"
        )
    return source.eval(), spread, as_bridge


def quiet(turn: Turn) -> None:
    """Have transformers without its progress bars and load report until a turn ends."""
    from transformers.utils import logging as theirs

    turn.undo(theirs.set_verbosity, theirs.get_verbosity())
    if theirs.is_progress_bar_enabled():
        turn.undo(theirs.enable_progress_bar)
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()


def _stop_tokens(source: Any) -> tuple[int, ...]:
    """Every end token of config.json and generation_config.json."""
    ends: set[int] = set()
    for config in (source.config, source.generation_config):
        tokens = getattr(config, "eos_token_id", None)
        found: list[Any] = [tokens] if isinstance(tokens, int | str) else list(tokens or ())
        wrong = [token for token in found if type(token) is not int or not 0 <= token < 2**31]
        if wrong:
            raise LoadError(f"eos_token_id {listed(wrong)} of the configuration is no token id; it must be a number")
        ends |= set(found)
    return tuple(sorted(ends))


@torch.no_grad()
def _check_logits(model: Model, probe: Tensor, expected: Float[Tensor, "pos d_vocab"], architecture: str) -> None:
    """Compare with transformers' own logits on a few tokens: the conversion proves itself at every load."""
    if not torch.isfinite(expected).all():
        raise LoadError(f"this model's logits are not finite in {model.cfg.dtype}; load it in bfloat16 or float32")
    logits = model(probe, attention_mask=torch.ones_like(probe))[0].float()
    error = (logits - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    if not error <= (1e-3 if model.cfg.dtype == torch.float32 else 0.15):
        raise UnsupportedModelError(
            f"the converted {architecture} differs from transformers by {float(error):.1%} of its "
            "largest logit, so its configuration has something that is not supported; use another checkpoint"
        )


check_arguments(__name__)
