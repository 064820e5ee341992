"""One module a stage, in the order of a run. Importing one costs nothing: what is heavy is imported when it runs.

NAME            where it is not the module's own name
READS           the settings that decide what it leaves, as keys or whole sections; a task adds its own by stage
                (``READS`` in its settings.py). None: all of them
OUTPUTS         patterns of the files that it leaves; ``outputs(recipe)`` where they depend on the task
run(recipe, run) -> Record     does the work

and where a stage has it:

LEAF            no later stage depends on it
NAMES_RUN       what it leaves names the run, so that no other run takes it over
check(recipe, processes)       raises RecipeError before there is a run
resolve(recipe) -> Recipe      fetches, and says what the recipe's names came to stand for
external(recipe)               what it reads from outside of the run, by sha256
machine(recipe)                what its bits depend on besides: versions, threads, device, precision
recorded(run)                  the files to record, where they are not all that OUTPUTS match
confirm(recipe, run)           raises where the settings ask for what its files do not have; called on each run
plans(recipe)                  what a dry run tries, and what it says besides
summary(run) -> list[str]      its result as a table for the screen
"""
