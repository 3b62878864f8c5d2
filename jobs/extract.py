"""Run the stages up to `extract` as a Ray job.

ray job submit --working-dir . -- python jobs/extract.py --config FILE [section.key=value …]
"""

from side_ray.cli import job

if __name__ == "__main__":
    job("extract")
