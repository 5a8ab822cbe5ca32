"""Writes what is in an image as CycloneDX, for scanners and for whoever must know."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from fededge import __version__
from fededge.registry.contents import Contents, DebianPackage, Package, Pin, normal

SCHEMA = SchemaVersion.V1_6

_ONE_OF = "SHA-256 of the release's files; the one that was installed is among them"
_TEXT_LIMIT = 100  # characters of a licence's name; more is its text


@dataclass(frozen=True)
class Subject:
    """The image.

    Attributes:
      name: with its tag, as `fededge-torch:0.1.0`.
      place: its name in a registry, without tag or digest; empty for none.
      digest: `sha256:…`; empty where it is in no registry.
    """

    name: str
    place: str = ""
    digest: str = ""


def write_bill(subject: Subject, pins: Sequence[Pin], contents: Contents | None, licences: Iterable[Package]) -> str:
    """Write the bill of materials of an image, as JSON.

    Args:
      subject: the image.
      pins: its lock, which has the hashes; empty for an image that has none.
      contents: what is in it, of its own account; None lists the lock alone.
      licences: packages whose licences are known, where `contents` does not tell.

    Returns:
      CycloneDX 1.6. But for the time in it, the same for the same image.
    """
    locked = {(pin.name, pin.version): pin for pin in pins}
    packages = contents.packages if contents else _of_lock(pins, licences)
    components = [_python_package(each, locked) for each in packages]
    if contents:
        components += [_interpreter(contents.python)]
        components += [_debian_package(each, contents.debian_version) for each in contents.debian]
    bom = Bom(components=components, serial_number=_serial(subject, components))
    bom.metadata.component = _image(subject)
    bom.metadata.tools.components.add(
        Component(name="fededge", version=__version__, type=ComponentType.APPLICATION, bom_ref="tool:fededge")
    )
    bom.metadata.properties.add(Property(name="fededge:source", value="image" if contents else "lock"))
    bom.register_dependency(bom.metadata.component, components)
    return str(make_outputter(bom, OutputFormat.JSON, SCHEMA).output_as_string(indent=1)) + "\n"


def _of_lock(pins: Sequence[Pin], licences: Iterable[Package]) -> list[Package]:
    known = {(normal(each.name), each.version): each for each in licences}
    return [known.get((pin.name, pin.version)) or Package(name=pin.name, version=pin.version) for pin in pins]


def _image(subject: Subject) -> Component:
    name, _, tag = subject.name.rpartition(":")
    purl = None
    if subject.digest:
        purl = PackageURL("oci", None, name, subject.digest, {"repository_url": subject.place, "tag": tag})
    hashes = [_sha256(subject.digest.removeprefix("sha256:"))] if subject.digest else []
    return Component(
        name=name, version=tag, type=ComponentType.CONTAINER, purl=purl, hashes=hashes, bom_ref=f"image:{subject.name}"
    )


def _python_package(package: Package, locked: Mapping[tuple[str, str], Pin]) -> Component:
    purl = PackageURL("pypi", None, normal(package.name), package.version)
    pin = locked.get((normal(package.name), package.version))
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        comment=_ONE_OF,
        hashes=[_sha256(digest) for digest in pin.hashes] if pin else (),
    )
    return Component(
        name=package.name,
        version=package.version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=_licences(package),
        external_references=[files] if pin else (),
    )


def _licences(package: Package) -> list[License]:
    """Return a package's licences, as its own metadata state them: nothing is guessed."""
    factory = LicenseFactory()
    stated = package.expression or package.licence.strip()
    if stated and stated.upper() != "UNKNOWN" and "\n" not in stated and len(stated) <= _TEXT_LIMIT:
        return [factory.make_from_string(stated)]
    names = {each.split(" :: ")[-1] for each in package.classifiers} - {"OSI Approved"}
    return [DisjunctiveLicense(name=name) for name in sorted(names)]


def _interpreter(version: str) -> Component:
    purl = PackageURL("generic", None, "python", version)
    return Component(name="python", version=version, type=ComponentType.PLATFORM, purl=purl, bom_ref=purl.to_string())


def _debian_package(package: DebianPackage, release: str) -> Component:
    qualifiers = {"arch": package.architecture, **({"distro": f"debian-{release}"} if release else {})}
    purl = PackageURL("deb", "debian", package.name, package.version, qualifiers)
    return Component(name=package.name, version=package.version, purl=purl, bom_ref=purl.to_string())


def _serial(subject: Subject, components: Iterable[Component]) -> uuid.UUID:
    listed = sorted(str(component.purl) for component in components)
    return uuid.uuid5(uuid.NAMESPACE_OID, re.sub(r"\s", "", repr((subject, listed))))


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
