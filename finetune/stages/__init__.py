"""One module per stage, in the order of a run. Importing one is cheap: heavy imports happen when it runs.

NAME            if it differs from the module's name
READS           the settings that determine its outputs, as keys or whole sections; a task adds its own per stage
                (``READS`` in its settings.py). None: all of them
OUTPUTS         patterns of its output files; ``outputs(recipe)`` if they depend on the task
run(recipe, run) -> Record     does the work

and optionally:

LEAF            no later stage depends on it
NAMES_RUN       its outputs contain the run's name, so no other run may reuse them
check(recipe, processes)       raises RecipeError before the run is created
resolve(recipe) -> Recipe      downloads, and replaces names by what was actually found
external(recipe)               sha256 of its inputs from outside the run
machine(recipe)                what else its exact bits depend on: versions, threads, device, precision
recorded(run)                  the files to record, if not everything that OUTPUTS matches
confirm(recipe, run)           raises if the settings need something its files lack; called on every run
plans(recipe)                  the trainings that a dry run measures, and notes to print
summary(run) -> list[str]      its result as a table for the screen
"""
