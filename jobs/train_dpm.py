"""Run the stages up to `train_dpm` as a Ray job.

ray job submit --working-dir . -- python jobs/train_dpm.py --config FILE [section.key=value …]
"""

from side_ray.cli import job

if __name__ == "__main__":
    job("train_dpm")
