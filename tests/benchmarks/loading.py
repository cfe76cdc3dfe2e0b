"""Peak memory of loading and of exporting a sharded random checkpoint, over the size of its weights.

    python tests/benchmarks/loading.py [--shape llama-1b] [--device cpu]

Each in its own process, in bfloat16: as a HookedTransformer and as a TransformerBridge (target: at most 1.2 times), and
an export with some neurons put out (target: at most 0.5 times).
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from shapes import SHAPES, parser_of  # noqa: E402

MODES = ("hooked", "bridge", "export")


def sharded(folder: Path, shape: str) -> Path:
    """A random Llama checkpoint of a shape in files of 600 MB."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from mechsurgery.evaluation.miniature import write_miniature

    facts = {"max_position_embeddings": 512, "architectures": ["LlamaForCausalLM"], "dtype": torch.bfloat16}
    whole = write_miniature(LlamaConfig(**SHAPES[shape], **facts), folder / "whole", torch.bfloat16)
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(folder / "sharded", max_shard_size="600MB")
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder / "sharded")
    return folder / "sharded"


def measure(mode: str, folder: Path, shape: str, device: str) -> None:
    """Do one of `MODES` in this process and print its seconds and its ratio."""
    import mechsurgery as ms
    from mechsurgery.models import memory

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    ms.load_model("organism/planted", device=device)  # imports
    with memory.peak(device) as peak:
        start = time.perf_counter()
        if mode == "export":
            site = "blocks.0.mlp.hook_post"
            circuit = ms.Circuit.from_indices({site: [1, 2, 3]}, {site: SHAPES[shape]["intermediate_size"]})
            ms.export(folder, ms.ablate(circuit), folder.with_name("exported"), progress=False)
        else:
            model = ms.load_model(folder, bridge=mode == "bridge", device=device)
            del model
        seconds, most = time.perf_counter() - start, peak()
    print(f"{mode}: {seconds:.1f} s, peak {most / size:.3g} x the weights of {size / 1e9:.2f} GB")


def main() -> None:
    parser = parser_of(__doc__)
    parser.set_defaults(shape="llama-1b")
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.mode:
        measure(options.mode, options.folder, options.shape, options.device)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = sharded(Path(name), options.shape)
        for mode in MODES:
            how = ["--mode", mode, "--folder", str(folder), "--shape", options.shape, "--device", options.device]
            subprocess.run([sys.executable, __file__, *how], check=True)


if __name__ == "__main__":
    main()
