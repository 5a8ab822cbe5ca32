from kfp import dsl

from components.images import SERVER


@dsl.component(base_image=SERVER, install_kfp_package=False)
def version_model(
    store: str,
    attempt: str,
    model: str,
    global_model: dsl.Output[dsl.Model],
    round_report: dsl.Output[dsl.Markdown],
) -> str:
    """Make the new model the current version, and return its name."""
    from fededge.steps.version_model import version_model as step

    done = step(store=store, attempt=attempt, model=model, model_path=global_model.path, report_path=round_report.path)
    global_model.metadata.update(done.reference)
    return done.version
