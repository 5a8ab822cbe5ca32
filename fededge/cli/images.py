"""`fededge images`: images in a registry, their scans, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fededge.cli import images_view
from fededge.cli.output import JsonOption, console, print_json, say
from fededge.errors import ImageError, InputError
from fededge.registry.connect import Way
from fededge.registry.project import Wish, set_up
from fededge.registry.reference import Place, Reference, parse_place, parse_reference
from fededge.registry.release import look_up, released_images, write_digests, write_text
from fededge.registry.scans import Checker, Level, Policy
from fededge.registry.secret import pull_secret, secret_file
from fededge.shipped import compiled_pipeline, pipeline_names

app = typer.Typer(help="Push images, name them by digest, check their scans.", no_args_is_help=True)

RegistryOption = Annotated[
    str, typer.Option(help="Registry and project, as harbor.example.org/fededge.", show_default=False)
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", help="PEM file of the authority to trust, where this machine does not.", exists=True, dir_okay=False
    ),
]
PlainOption = Annotated[
    bool, typer.Option("--plain-http", help="Speak no TLS; on this machine itself that goes without saying.")
]
ApiOption = Annotated[
    str, typer.Option(help="URL of Harbor's API; by default https://REGISTRY/api/v2.0.", show_default=False)
]
NamesArgument = Annotated[
    list[str] | None, typer.Argument(help="As torch; all without any.", show_default=False, metavar="[NAME]...")
]
TagOption = Annotated[str, typer.Option(help="The images' tag; this FedEdge's version if not said.")]


@app.command()
def push(
    registry: RegistryOption,
    names: NamesArgument = None,
    tag: TagOption = "",
    digests: Annotated[
        Path, typer.Option(help="Where to write the digests, for `fededge pipelines export --digests`.")
    ] = Path("digests.json"),
    sboms: Annotated[
        Path | None, typer.Option(help="Folder for a bill of materials of each image; none without it.")
    ] = None,
    ca: CaOption = None,
    plain_http: PlainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Push the images that `make images` has built, and keep the digests that the registry has for them.

    Docker must trust the registry, and `docker login` know who you are.

    For example:

    - `fededge images push --registry harbor.example.org/fededge`
    - `fededge images push torch sklearn --registry 127.0.0.1:5000/fededge --sboms dist/sbom`
    """
    from fededge.registry import release
    from fededge.registry.bill import image_bill
    from fededge.registry.engine import open_engine

    place, way = parse_place(registry), Way(ca, plain_http, say=say)
    found: dict[str, str] = {}
    with open_engine() as engine:
        for name, image in released_images(names or (), tag).items():
            with images_view.pushing(place.image(image)) as watch:
                found[image] = release.push(engine, image, place, way, watch)
            say(f"{place.image(image)} is {found[image]}")
            if sboms:
                bill = image_bill(name, image, engine, place, found[image])
                write_text(bill, sboms / f"{image.replace(':', '-')}.cdx.json")
    _keep(found, digests, as_json)


@app.command("digests")
def find_digests(
    registry: RegistryOption,
    names: NamesArgument = None,
    tag: TagOption = "",
    to: Annotated[Path, typer.Option("--to", "-o", help="The file.")] = Path("digests.json"),
    ca: CaOption = None,
    plain_http: PlainOption = False,
    api: ApiOption = "",
    as_json: JsonOption = False,
) -> None:
    """Ask a registry which digests our images have; needs no Docker.

    For example:

    - `fededge images digests --registry harbor.example.org/fededge`
    - `fededge images digests torch --tag 0.1.0 --registry harbor.example.org/fededge --to torch.json`
    """
    with images_view.waiting(f"asking {registry}"):
        way = Way(ca, plain_http, api, say=say)
        found = look_up(list(released_images(names or (), tag).values()), parse_place(registry), way)
    _keep(found, to, as_json)


@app.command()
def sbom(
    name: Annotated[str, typer.Argument(help="As torch: an image of ours, for its lock.")],
    image: Annotated[
        str, typer.Option(help="Look into this one on the Docker engine; without it, list the lock alone.")
    ] = "",
    to: Annotated[Path | None, typer.Option("--to", "-o", help="The file; by default NAME.cdx.json.")] = None,
) -> None:
    """Write what is in an image, as CycloneDX.

    For example:

    - `fededge images sbom torch`
    - `fededge images sbom torch --image fededge-torch:0.1.0 --to torch.cdx.json`
    """
    from fededge.registry.bill import image_bill, lock_bill
    from fededge.registry.engine import open_engine

    path = to or Path(f"{name}.cdx.json")
    if image:
        with images_view.waiting(f"looking into {image}"), open_engine() as engine:
            text = image_bill(name, image, engine)
    else:
        text = lock_bill(name, *released_images([name]).values())
    write_text(text, path)
    console.print(f"what is in {image or f'the lock of {name}'} is in {path}", soft_wrap=True)


@app.command()
def check(
    pipelines: Annotated[
        list[Path] | None,
        typer.Argument(help="Pipelines' YAML; those that are shipped without any.", show_default=False),
    ] = None,
    image: Annotated[list[str] | None, typer.Option(help="An image, whole; may be repeated.")] = None,
    registry: RegistryOption = "",
    digests: Annotated[
        Path | None, typer.Option(help="Of the shipped pipelines' images.", exists=True, dir_okay=False)
    ] = None,
    severity: Annotated[Level, typer.Option(help="Refuse a vulnerability as bad as this, or worse.")] = "high",
    fixable_only: Annotated[
        bool, typer.Option("--fixable-only", help="Count only those that a newer version fixes.")
    ] = False,
    max_age: Annotated[float, typer.Option(help="Days for which a scan counts.", min=0)] = 7.0,
    scan: Annotated[bool, typer.Option("--scan", help="Have Harbor scan what has no scan that counts.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for scans.", min=0)] = 600.0,
    ca: CaOption = None,
    plain_http: PlainOption = False,
    api: ApiOption = "",
    as_json: JsonOption = False,
) -> None:
    """Ask Harbor for the scan of every image that pipelines name, servers' too, and refuse what is too vulnerable.

    An image without a scan, or with an old one, is refused too. The exit code is 8 if one is refused.

    For example:

    - `fededge images check fl_training.yaml`
    - `fededge images check --registry harbor.example.org/fededge --digests digests.json --scan`
    - `fededge images check fl_training.yaml --severity critical --fixable-only --json`
    """
    wanted = _images(pipelines or [], image or [], registry, digests)
    host = parse_place(registry).host if registry else _only_host(wanted)
    harbor = Way(ca, plain_http, api, say=say).harbor(host)
    with images_view.waiting(f"asking {host}") as tell:
        checker = Checker(harbor, frozenset((host,)), Policy(severity, fixable_only, max_age), harbor.now())
        if scan:
            verdicts = checker.scan(wanted, wait, lambda one, state: tell(f"{one}: scan {state.lower()}"))
        else:
            verdicts = [checker.judge(one) for one in wanted]
    if as_json:
        print_json({"images": [{"passed": each.passed, **each.model_dump(mode="json")} for each in verdicts]})
    else:
        images_view.show_verdicts(verdicts)
    if refused := [each for each in verdicts if not each.passed]:
        first = refused[0]
        raise ImageError(
            f"{len(refused)} of {len(verdicts)} images refused: {first.image} {first.reason}; {first.advice}"
        )


@app.command("harbor-setup")
def harbor_setup(
    registry: RegistryOption,
    severity: Annotated[Level, typer.Option(help="Harbor gives out no image as bad as this, or worse.")] = "high",
    robot: Annotated[str, typer.Option(help="Name of the robot account that pulls.")] = "fededge-pull",
    days: Annotated[int, typer.Option(help="Days for which it is valid; -1 for ever.")] = 365,
    new_secret: Annotated[bool, typer.Option("--new-secret", help="Give it another secret if it is there.")] = False,
    secret: Annotated[
        Path | None,
        typer.Option("--secret-file", help="Write its secret there as a Kubernetes Secret, instead of printing it."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")] = False,
    ca: CaOption = None,
    plain_http: PlainOption = False,
    api: ApiOption = "",
    as_json: JsonOption = False,
) -> None:
    """Set up a project in Harbor: scanned on push, immutable tags, a robot account that can only pull.

    What is so already is left alone: typed again, it changes nothing and says so. Needs an account that may create
    projects, in FEDEDGE_REGISTRY_USER and FEDEDGE_REGISTRY_PASSWORD, or by `docker login`.

    For example:

    - `fededge images harbor-setup --registry harbor.example.org/fededge --dry-run`
    - `fededge images harbor-setup --registry harbor.example.org/fededge --secret-file secret.yaml`
    """
    place = parse_place(registry)
    if not place.path or "/" in place.path:
        raise InputError(f"{registry} is no project of a Harbor, as harbor.example.org/fededge")
    harbor = Way(ca, plain_http, api, say=say).harbor(place.host)
    wish = Wish(place.path, severity, robot, days, new_secret)
    with secret_file(secret if not dry_run else None) as write:
        with images_view.waiting(f"setting up {registry}"):
            setup = set_up(harbor, wish, dry_run)
        if setup.robot and setup.robot.secret:
            write(pull_secret(place.host, setup.robot.name, setup.robot.secret))
    images_view.show_setup(setup, dry_run, secret, as_json)


def _keep(found: dict[str, str], to: Path, as_json: bool) -> None:
    write_digests(found, to)
    if as_json:
        print_json(found)
    else:
        console.print(f"the digests are in {to}: fededge pipelines export --registry … --digests {to}", soft_wrap=True)


def _images(pipelines: list[Path], images: list[str], registry: str, digests: Path | None) -> list[Reference]:
    """Return the images to check, each once, in order.

    Raises:
      InputError: there are none, or the options do not go together.
    """
    if (pipelines or images) and digests:
        raise InputError("--digests is for the shipped pipelines; one that was exported names its own")
    found = [*images, *(each for path in pipelines for each in _named(path))]
    if not found:
        if not registry:
            raise InputError("name a pipeline's YAML, or say with --registry where the shipped ones' images are")
        shipped = {each for name in pipeline_names() for each in _named(compiled_pipeline(name))}
        found = _released(sorted(shipped), parse_place(registry), digests)
    return [parse_reference(each) for each in dict.fromkeys(found)]


def _named(pipeline: Path) -> list[str]:
    from fededge.kubeflow import yaml_file

    document = yaml_file.read_pipeline(pipeline)
    return [*yaml_file.images(document), *yaml_file.server_images(document)]


def _released(images: list[str], place: Place, digests: Path | None) -> list[str]:
    from fededge.kubeflow.export import read_digests

    known = read_digests(digests) if digests else {}
    return [f"{place.image(each)}@{known[each]}" if each in known else place.image(each) for each in images]


def _only_host(images: list[Reference]) -> str:
    hosts = sorted({image.host for image in images})
    if hosts == [""]:
        raise InputError(
            "the images are in no registry: export the pipeline with --registry, or say with --registry where they are"
        )
    if len(hosts) > 1:
        raise InputError(
            f"the images are in {' and '.join(host or 'none' for host in hosts)}: name one with --registry"
        )
    return hosts[0]
