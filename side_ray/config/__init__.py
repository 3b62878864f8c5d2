"""The configuration of an audit: one module per section, `audit` for the whole, `file` for reading YAML and overrides.

A section with registered items (`data`, `score`, …) is a `base.OpenSection`: sources, similarities and the like add their own
keys to it through `side_ray.registry`, and this package imports none of them. A new key goes into its section, with
`base.omitted_by_default`, so that configs without it keep their fingerprints.
"""

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
