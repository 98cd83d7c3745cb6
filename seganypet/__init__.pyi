"""The names that a notebook uses, for static tools and for lazy_loader; `seganypet/__init__.py` says the rest."""

from .cohort import samples as samples
from .cohort.annotation import Annotation as Annotation
from .cohort.case import Case as Case
from .cohort.cohort import Cohort as Cohort
from .cohort.totalsegmentator import (
    read_totalsegmentator as read_totalsegmentator,
)
from .cohort.totalsegmentator import (
    run_totalsegmentator as run_totalsegmentator,
)
from .errors import SegAnyPETError as SegAnyPETError
from .lessons.checks import check as check
from .lessons.parameters import check_parameters as check_parameters
from .metrics import dice as dice
from .model.checkpoints import load_model as load_model
from .model.checkpoints import save_model as save_model
from .model.config import ModelConfig as ModelConfig
from .pet.dicom import list_series as list_series
from .pet.dicom import load_dicom as load_dicom
from .pet.mask_files import load_masks as load_masks
from .pet.mask_files import save_masks as save_masks
from .pet.percist import (
    blood_pool_reference as blood_pool_reference,
)
from .pet.percist import (
    liver_reference as liver_reference,
)
from .pet.percist import measurability as measurability
from .pet.percist import measurable_lesions as measurable_lesions
from .pet.physiology import physiological_mask as physiological_mask
from .pet.physiology import without_physiology as without_physiology
from .pet.plots import show_fused as show_fused
from .pet.plots import show_mip as show_mip
from .pet.plots import show_slices as show_slices
from .pet.quantification import (
    quantify as quantify,
)
from .pet.quantification import (
    sul_factor as sul_factor,
)
from .pet.quantification import (
    threshold_mask as threshold_mask,
)
from .pet.registration import apply_transform as apply_transform
from .pet.registration import moved as moved
from .pet.registration import register_rigid as register_rigid
from .pet.resampling import resample_to as resample_to
from .pet.sidecar import to_suvbw as to_suvbw
from .pet.suv import lean_body_mass as lean_body_mass
from .pet.suv import suv_factor as suv_factor
from .pet.suv import suv_per_bq_ml as suv_per_bq_ml
from .pet.threshold_rules import Threshold as Threshold
from .pet.threshold_rules import ThresholdRule as ThresholdRule
from .pet.volume import (
    Volume as Volume,
)
from .pet.volume import (
    load_labels as load_labels,
)
from .pet.volume import (
    load_volume as load_volume,
)
from .pet.volume import (
    save_mask as save_mask,
)
from .pet.volume import (
    save_volume as save_volume,
)
from .phantom import make_phantom as make_phantom
from .phantom.annotators import low_quality_labels as low_quality_labels
from .prompting.initial_mask import InitialMask as InitialMask
from .prompting.journal import Journal as Journal
from .prompting.network_session import open_session as open_session
from .prompting.prompt import Click as Click
from .prompting.prompt import Prompt as Prompt
from .prompting.proposal import Proposal as Proposal
from .prompting.proposal import propose as propose
from .prompting.random_walker import RandomWalkerSession as RandomWalkerSession
from .prompting.readings import Choice as Choice
from .prompting.readings import Reading as Reading
from .prompting.session import Session as Session
from .prompting.shapes import Box as Box
from .prompting.shapes import Lasso as Lasso
from .prompting.shapes import Scribble as Scribble
from .prompting.simulate import first_click as first_click
from .prompting.simulate import next_click as next_click
from .prompting.simulate_shapes import first_prompt as first_prompt
from .prompting.simulate_shapes import next_prompt as next_prompt
from .prompting.slicewise import SliceSession as SliceSession
from .prompting.suggest import hot_mask as hot_mask
from .prompting.suggest import suggest_click as suggest_click
from .prompting.thresholds import ThresholdSession as ThresholdSession
from .study.agreement import (
    bland_altman as bland_altman,
)
from .study.agreement import (
    bland_altman_of as bland_altman_of,
)
from .study.agreement import (
    compare_suvmax as compare_suvmax,
)
from .study.conversion import convert as convert
from .study.evaluation import evaluate as evaluate
from .study.interactive import evaluate_interactive as evaluate_interactive
from .study.lesions import analyse_tumours as analyse_tumours
from .study.paper_tables import table as table
from .study.plots import plot_bland_altman as plot_bland_altman
from .study.plots import plot_boxes as plot_boxes
from .study.plots import plot_cases as plot_cases
from .study.plots import plot_dsc as plot_dsc
from .study.quantities import quantify_case as quantify_case
from .study.quantities import quantify_cohort as quantify_cohort
from .study.redraw import redraw_mask as redraw_mask
from .study.report import write_report as write_report
from .study.statistics import compare as compare
from .study.summaries import effort as effort
from .study.summaries import summarise as summarise
from .study.summaries import (
    summarise_tumours as summarise_tumours,
)
from .study.summaries import (
    two_d_against_three_d as two_d_against_three_d,
)
from .study.supplement import published as published
from .training.config import TrainConfig as TrainConfig
from .training.loop import train as train
from .widgets.annotate import AnnotationWidget as AnnotationWidget
from .widgets.click import ClickWidget as ClickWidget
from .widgets.rendering import view3d as view3d

__version__: str
