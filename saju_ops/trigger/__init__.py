"""The HTTP trigger: hosts without cron start the clean-up by a call from outside (`saju-ops serve-trigger`).

What it starts, it starts through Dagster's webserver, so that limits, queue, history and alerts apply. It keeps
nothing of its own: what runs is read from the runs' tags, so it may be killed and started again at any moment, and
several of it may run. It imports no Dagster.
"""
