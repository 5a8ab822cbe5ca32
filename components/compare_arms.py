from kfp import dsl

from components.images import CLIENT


@dsl.component(base_image=CLIENT, install_kfp_package=False)
def compare_arms(
    store: str,
    compared: str,
    reports: list,
    comparison: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    figures: dsl.Output[dsl.Artifact],
):
    """Put the arms of a comparison side by side."""
    from fededge.steps.compare_arms import compare_arms as step

    done = step(store=store, comparison=compared, reports=reports, page_path=comparison.path, figures_path=figures.path)
    for name, value in done.items():
        metrics.log_metric(name, value)
