"""The configuration of an audit."""

from side_ray.config.audit import Config, ControlSection, SweepSection, TheorySection
from side_ray.config.cluster import ClusterSection, ReportSection, RunSection, StorageSection
from side_ray.config.data import DataSection
from side_ray.config.dpm import DpmSection
from side_ray.config.extract import ExtractSection, GivenSection, Method
from side_ray.config.score import OwnBands, ScoreSection
from side_ray.config.surrogate import SurrogateSection

__all__ = [
    "ClusterSection",
    "Config",
    "ControlSection",
    "DataSection",
    "DpmSection",
    "ExtractSection",
    "GivenSection",
    "Method",
    "OwnBands",
    "ReportSection",
    "RunSection",
    "ScoreSection",
    "StorageSection",
    "SurrogateSection",
    "SweepSection",
    "TheorySection",
]
