"""One module a stage: ``run(recipe, run) -> dict`` does the work, ``OUTPUTS`` names the files it leaves.

``outside(recipe)``, where a stage has it, names what the stage reads from outside of the run, by hash. ``LEAF``: no
later stage depends on it. What differs from task to task stands in ``by_task``.
"""
