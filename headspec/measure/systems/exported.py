"""An exported model, loaded from its folder: what a user of the export would run."""

from pathlib import Path

from headspec.errors import ModelError
from headspec.load.config import read_config
from headspec.load.explained import explained
from headspec.load.model import load_plain
from headspec.load.names import folder_name, resolve
from headspec.load.plain import PlainModel
from headspec.load.pruned import MODEL_TYPE, register
from headspec.measure.systems.planned import PlannedReading
from headspec.measure.systems.system import Standing, System
from headspec.plan.plan import HeadPlan
from headspec.runtime.openvino_runner import CONFIG


def exported(
    folder: Path | str, source: PlainModel | str, *, device: str | None = None, dtype: str | None = None
) -> System:
    """An export and the plan that made it; certified if that plan is. Its weights are read when it is opened.

    Args:
        folder: Written by `export_model`.
        source: The original that it will be compared with, or only its name. Given the model, sizes are compared too.
        device: Where it will run; by default where the original does, or on the CPU if only its name is known.
        dtype: Of its weights; by default the original's, or float32.

    Raises:
        ModelError: Not a pruned model, or one made from another original.
        RecordError: Its plan is damaged.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such directory. Give one that export_model has written.")
    if (folder / CONFIG).is_file():
        from headspec.measure.systems.openvino import openvino_folder

        if isinstance(source, str):
            raise ModelError(f"{folder} is an OpenVINO export: load {source} to compare it with.")
        return openvino_folder(folder, source)
    plan = _plan_of(folder)
    like = None if isinstance(source, str) else source.identity
    _check_origin(folder, plan, source if isinstance(source, str) else source.name)
    if like is not None:
        plan.about.check_model(like)
    place, kind = device or (like.device if like else "cpu"), dtype or (like.dtype if like else "float32")
    return System(
        name=folder_name(str(folder)), label=f"exported model {folder}",
        standing=Standing.CERTIFIED if plan.certificate else Standing.HYPOTHETICAL,
        open=lambda: PlannedReading(load_plain(str(folder), device=place, dtype=kind).huggingface), plan=plan,
        folder=folder,
    )  # fmt: skip


def _plan_of(folder: Path) -> HeadPlan:
    """The plan in the folder of a pruned model, if the weights beside it were made by it."""
    register()
    known = resolve(str(folder))
    with explained(known):
        config = read_config(known)
    if config.model_type != MODEL_TYPE:
        raise ModelError(
            f"{folder} holds a {config.model_type} model and no pruned one (a dense twin runs like the original): "
            "export it with to='hf'."
        )
    plan = HeadPlan.load(folder / "plan.json")
    if config.headspec.get("plan") != plan.digest or config.headspec.get("model") != plan.about.model:
        raise ModelError(f"{folder}: its plan.json is not the one that this model was made by. Export it anew.")
    return plan


def _check_origin(folder: Path, plan: HeadPlan, wanted: str) -> None:
    """Refuse the export of another original."""
    if plan.about.model != wanted:
        raise ModelError(
            f"{folder} was made from {plan.about.model}, not from {wanted}: compare it with {plan.about.model}."
        )
