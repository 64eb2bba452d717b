"""The end of a run: what was measured is compared and reported."""

from __future__ import annotations

from tunelift.comparison import Comparison
from tunelift.comparison.run_folder import compare_run
from tunelift.core import files, garbage, progress
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.tracking import settings_of, tell_verdict
from tunelift.reporting import write_card, write_markdown, write_report
from tunelift.run_files.layout import CARD


@garbage.not_looked_for()
def concluded(folder: RunFolder) -> Comparison:
    """Compare what was measured, and write comparison.json, the report and the model card.

    Of a run that is complete only a report that is missing is written again.
    """
    paths, complete = folder.paths, folder.complete
    written_last = (paths.made if paths.made.is_dir() else paths.folder) / CARD
    if complete:
        progress.note(f"{folder.path} holds this very run, complete; nothing to do.")
    comparison = compare_run(folder.path, margin=folder.config.evaluate.margin)
    if not complete:
        files.write_json(paths.comparison, comparison.to_dict())
        tell_verdict(folder.path, folder.config.track, settings_of(folder.config), comparison.to_dict())
        folder.finish()
    if not (complete and written_last.is_file() and paths.page.is_file()):
        write_report(folder.path)
        write_markdown(folder.path)
        files.write_text(written_last, write_card(folder.path).read_text(encoding="utf-8"))
    return comparison
