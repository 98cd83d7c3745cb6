"""seganypet: promptable segmentation of 3D PET, to learn, run and extend.

Names are imported when first used, so that `import seganypet` is quick.
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_HOME = {
    "Volume": "volume",
    "load_volume": "volume",
    "load_labels": "volume",
    "save_mask": "volume",
    "save_volume": "volume",
    "load_dicom": "dicom",
    "list_series": "dicom",
    "resample_to": "dicom",
    "suv_factor": "suv",
    "lean_body_mass": "suv",
    "quantify": "quantify",
    "threshold_mask": "quantify",
    "Threshold": "quantify",
    "sul_factor": "quantify",
    "liver_reference": "percist",
    "blood_pool_reference": "percist",
    "measurability": "percist",
    "bland_altman": "agreement",
    "bland_altman_of": "agreement",
    "compare_suvmax": "agreement",
    "make_phantom": "phantom",
    "low_quality_labels": "phantom.annotators",
    "Click": "prompts",
    "Journal": "prompts",
    "load_model": "model.checkpoints",
    "save_model": "model.checkpoints",
    "ModelConfig": "model.config",
    "Session": "session",
    "SliceSession": "slicewise",
    "Case": "case",
    "Cohort": "cohort",
    "quantify_case": "quantify_cohort",
    "quantify_cohort": "quantify_cohort",
    "ThresholdSession": "baselines",
    "RandomWalkerSession": "random_walker",
    "register_rigid": "registration",
    "moved": "registration",
    "read_totalsegmentator": "totalsegmentator",
    "run_totalsegmentator": "totalsegmentator",
    "evaluate": "evaluate",
    "summarise": "evaluate",
    "effort": "evaluate",
    "published": "published",
    "physiological_mask": "physiology",
    "without_physiology": "physiology",
    "hot_mask": "candidates",
    "suggest_click": "candidates",
    "analyse_tumours": "tumours",
    "summarise_tumours": "tumour_summaries",
    "two_d_against_three_d": "tumour_summaries",
    "evaluate_interactive": "interactive",
    "write_report": "report",
    "dice": "metrics",
    "first_click": "simulate",
    "next_click": "simulate",
    "TrainConfig": "training.config",
    "train": "train",
    "show_mip": "plots",
    "show_slices": "plots",
    "show_fused": "plots",
    "plot_dsc": "plots",
    "plot_bland_altman": "plots",
    "Annotation": "annotation",
    "ClickWidget": "widgets.click",
    "AnnotationWidget": "widgets.annotate",
    "view3d": "widgets.view3d",
    "SegAnyPETError": "errors",
}

_MODULES = ("samples",)

__all__ = sorted((*_HOME, *_MODULES))


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"seganypet.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'seganypet' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"seganypet.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})


class _Package(ModuleType):
    """Keeps `seganypet.evaluate` the function when the module of that name is imported later."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
