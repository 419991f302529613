"""Run as a program in a folder with jobs.json: loads exported models where headspec cannot be imported."""

import importlib.abc
import json
import sys
from pathlib import Path
from typing import Any


class NoHeadspec(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.split(".")[0] == "headspec":
            raise ImportError("headspec is not installed here")


def work(job: dict[str, Any], number: int, folder: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(job["folder"], **job.get("options", {}))
    tokens = torch.tensor(job["tokens"])
    with torch.no_grad():
        torch.save(model(tokens).logits.float(), folder / f"{number}.pt")
        greedy = model.generate(tokens, **job["greedy"]).tolist()
    if "save_to" in job:
        model.save_pretrained(job["save_to"])
    words = None
    if (Path(job["folder"]) / "tokenizer.json").exists():
        words = AutoTokenizer.from_pretrained(job["folder"])("a word")["input_ids"]
    generation = model.generation_config.to_dict() if job.get("generation") else None
    return {
        "greedy": greedy, "class": type(model).__name__, "module": type(model).__module__, "words": words,
        "dtype": str(model.dtype), "generation": generation,
    }  # fmt: skip


def main(folder: Path) -> None:
    sys.meta_path.insert(0, NoHeadspec())
    results = []
    for number, job in enumerate(json.loads((folder / "jobs.json").read_text())):
        try:
            results.append(work(job, number, folder))
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as error:
            results.append({"error": f"{type(error).__name__}: {error}"})
    assert not any(name.split(".")[0] == "headspec" for name in sys.modules)
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
