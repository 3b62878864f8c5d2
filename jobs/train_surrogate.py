"""Run the stages up to `train_surrogate` as a Ray job.

ray job submit --working-dir . -- python jobs/train_surrogate.py --config FILE [section.key=value …]
"""

from side_ray.cli import job

if __name__ == "__main__":
    job("train_surrogate")
