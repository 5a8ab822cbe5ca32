"""The data sets that users download themselves: their files, and who published them, under which licence.

None of the addresses was tried from the machine that this was written on. The digests are of the publishers' whole
files, unpacked, as other people's public copies have them: of Los-loop and the buildings at the very commits that the
addresses name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fededge.datasets import buildings, cmapss, los, mnist, parkinsons, wisdm
from fededge.datasets.building_digests import BUILDINGS, WEATHER
from fededge.errors import InputError


@dataclass(frozen=True)
class File:
    """A file of a data set.

    Attributes:
      path: inside the data set's folder, unpacked; it may have .gz behind it.
      sha256: of the publisher's whole file, unpacked; empty for what is only there for people to read.
      rows_only: the digest is of the rows after an ARFF header alone, without quotes and line ends: the file has been
        published in several forms.
      also: other paths that it may have.
    """

    path: str
    sha256: str = ""
    rows_only: bool = False
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Download:
    """What a server has: a file, or an archive of several.

    Attributes:
      path: where it goes inside the data set's folder; an archive goes again when it is unpacked.
      files: that it brings.
      also: other paths that it may have on a mirror.
    """

    url: str
    path: str
    files: tuple[File, ...]
    also: tuple[str, ...] = ()

    @property
    def is_archive(self) -> bool:
        return self.path.endswith((".tar.gz", ".zip"))


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
      name: as it is typed.
      client: what a client is, in the plural; empty where there are none by nature.
      clients: how many the publisher's files have.
      page: where people find the files.
      folder: that `fededge data fetch` puts the files into.
      count: reads everything and returns the number of clients, or of examples where there are none; a `WorkloadError`
        says that a file is missing, damaged, or of another format.
    """

    name: str
    title: str
    application: str
    client: str
    clients: int
    licence: str
    citation: str
    page: str
    folder: str
    downloads: tuple[Download, ...]
    count: Callable[[Path], int]

    @property
    def files(self) -> tuple[File, ...]:
        """The files that the loader reads."""
        return tuple(file for download in self.downloads for file in download.files if file.sha256)


def data_set(name: str) -> DataSet:
    """Find a data set.

    Raises:
      InputError: there is none of that name.
    """
    if name not in DATA_SETS:
        raise InputError(f"no data set {name!r}: there are {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def _one(base: str, path: str, sha256: str = "") -> Download:
    """Describe a file that is downloaded as it is, or gzipped."""
    return Download(f"{base}/{path}", path, (File(path.removesuffix(".gz"), sha256),))


def _building(name: str, sha256: str) -> Download:
    path = buildings.ELECTRICITY_FILE.format(building=name)
    published = f"building_data/{path}"
    return Download(f"{_CAMBRIDGE}/{published}", path, (File(path, sha256, also=(published,)),), (published,))


def _weather() -> Download:
    path, published = buildings.WEATHER_FILES
    return Download(f"{_CAMBRIDGE}/{quote(published)}", path, (File(path, WEATHER, also=(published,)),), (published,))


def _engines(folder: Path) -> int:
    cmapss.read_rul(folder)
    return len(cmapss.read_train(folder))


def _sensors(folder: Path) -> int:
    los.read_adjacency(folder)
    return len(los.read(folder).sensors)


def _buildings(folder: Path) -> int:
    buildings.read_weather(folder)
    return len(buildings.read(folder))


_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/parkinsons/telemonitoring"
_T_GCN = "https://raw.githubusercontent.com/lehaifeng/T-GCN/219a2346f5bf68d54d91a948e7a41a08f9edc46b/data"
_CAMBRIDGE = (
    "https://raw.githubusercontent.com/EECi/Cambridge-Estates-Building-Energy-Archive/"
    "97b8a6b79a66296f54bf4f0c74c23b7d6b541bae"
)
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"

_WISDM_SET = DataSet(
    name="wisdm",
    title="WISDM Activity Prediction v1.1",
    application="health monitoring",
    client="people",
    clients=36,
    licence="none stated; cite it, pass readme.txt on",
    citation=(
        'J. R. Kwapisz, G. M. Weiss, S. A. Moore, "Activity Recognition using Cell Phone Accelerometers", SensorKDD '
        "at KDD, Washington DC, 2010"
    ),
    page="https://www.cis.fordham.edu/wisdm/dataset.php",
    folder="health_wisdm",
    downloads=(
        Download(
            "https://www.cis.fordham.edu/wisdm/includes/datasets/latest/WISDM_ar_latest.tar.gz",
            "WISDM_ar_latest.tar.gz",
            (
                File(wisdm.FILE, "b4ffb6ea5d8d3d71b3b318960c03c656418fa8e7f5c07039cc522656cffcc054", rows_only=True),
                File("readme.txt"),
                File("WISDM_ar_v1.1_trans_about.txt"),
            ),
        ),
    ),
    count=lambda folder: len(wisdm.read(folder)),
)
_PARKINSONS_SET = DataSet(
    name="parkinsons",
    title="Parkinsons Telemonitoring",
    application="health monitoring",
    client="people",
    clients=42,
    licence="CC BY 4.0",
    citation=(
        "A. Tsanas, M. A. Little, P. E. McSharry, L. O. Ramig, \"Accurate telemonitoring of Parkinson's disease "
        'progression by non-invasive speech tests", IEEE Transactions on Biomedical Engineering 57, 2010'
    ),
    page="https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring",
    folder="health_parkinsons",
    downloads=(
        _one(_UCI, parkinsons.FILE, "f2c7d5025dec4e92e7feae367a5f7ccf58789a10ac6b54bdf15976c599f9dd39"),
        _one(_UCI, "parkinsons_updrs.names"),
    ),
    count=lambda folder: len(parkinsons.read(folder)),
)
_CMAPSS_SET = DataSet(
    name="cmapss",
    title="NASA C-MAPSS turbofan engines, FD001",
    application="industrial IoT",
    client="engines",
    clients=100,
    licence="none stated; US Government",
    citation=(
        'A. Saxena, K. Goebel, D. Simon, N. Eklund, "Damage Propagation Modeling for Aircraft Engine Run-to-Failure '
        'Simulation", PHM, Denver CO, 2008'
    ),
    page=(
        "https://www.nasa.gov/intelligent-systems-division/discovery-and-systems-health/pcoe/pcoe-data-set-repository/"
    ),
    folder="industrial_cmapss",
    downloads=(
        Download(
            "https://phm-datasets.s3.amazonaws.com/NASA/6.+Turbofan+Engine+Degradation+Simulation+Data+Set.zip",
            "6.+Turbofan+Engine+Degradation+Simulation+Data+Set.zip",
            (
                File(cmapss.TRAIN_FILE, "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8"),
                File(cmapss.TEST_FILE, "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851"),
                File(cmapss.RUL_FILE, "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca"),
                File("readme.txt"),
            ),
            also=("CMAPSSData.zip",),  # the archive inside it, which is also passed around
        ),
    ),
    count=_engines,
)
_LOS_SET = DataSet(
    name="los",
    title="Los-loop, a part of METR-LA",
    application="traffic",
    client="road sensors",
    clients=207,
    licence="none stated",
    citation=(
        'L. Zhao et al., "T-GCN: A Temporal Graph Convolutional Network for Traffic Prediction", IEEE Transactions on '
        "Intelligent Transportation Systems 21(9), 2020"
    ),
    page="https://github.com/lehaifeng/T-GCN/tree/master/data",
    folder="traffic_los",
    downloads=(
        _one(_T_GCN, los.SPEED_FILE, "7b732d86ae32b2930595becba28aff39dacbfb2197e250fc0332e1744ce2cbf4"),
        _one(_T_GCN, los.ADJACENCY_FILE, "7a6eb41e10677992b5af50f5ab187c6c05c5c3a92cb973950cfddbf857361e76"),
    ),
    count=_sensors,
)
_BUILDINGS_SET = DataSet(
    name="buildings",
    title="Cambridge University Estates, 2018",
    application="smart buildings",
    client="buildings",
    clients=len(BUILDINGS),
    licence="MIT; weather: Open Government Licence",
    citation=(
        'M. Langtry, R. Choudhary, "Cambridge University Estates building energy usage archive", version 2.1, 2024, '
        "doi:10.5281/zenodo.10955332; Met Office, MIDAS Open, CEDA"
    ),
    page="https://doi.org/10.5281/zenodo.10955332",
    folder="buildings_cambridge",
    downloads=(*(_building(name, sha256) for name, sha256 in BUILDINGS.items()), _weather()),
    count=_buildings,
)
_MNIST_SET = DataSet(
    name="mnist",
    title="MNIST",
    application="image benchmark",
    client="",
    clients=0,
    licence="CC BY-SA 3.0, as often quoted",
    citation=(
        'Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", '
        "Proceedings of the IEEE 86(11), 1998"
    ),
    page="http://yann.lecun.com/exdb/mnist/",
    folder="images_mnist",
    downloads=tuple(
        _one(_MNIST, f"{name}-ubyte.gz", sha256)
        for name, sha256 in (
            ("train-images-idx3", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            ("train-labels-idx1", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            ("t10k-images-idx3", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            ("t10k-labels-idx1", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        )
    ),
    count=lambda folder: len(mnist.read_train(folder).labels) + len(mnist.read_test(folder).labels),
)

DATA_SETS = {
    entry.name: entry for entry in (_WISDM_SET, _PARKINSONS_SET, _CMAPSS_SET, _LOS_SET, _BUILDINGS_SET, _MNIST_SET)
}
