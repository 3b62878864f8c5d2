"""Run the stages up to `score` as a Ray job.

ray job submit --working-dir . -- python jobs/score.py --config FILE [section.key=value …]
"""

from side_ray.cli import job

if __name__ == "__main__":
    job("score")
