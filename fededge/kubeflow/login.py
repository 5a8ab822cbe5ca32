"""How to reach Kubeflow Pipelines and log in: all that kfp's client takes, from options or the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from fededge.errors import InputError


def _from(variable: str, default: Any, description: str) -> Any:
    """Declare a field that an environment variable can set; kfp itself reads some of these."""
    return Field(default, description=description, json_schema_extra={"variable": variable})


class Login(BaseModel):
    """Where Kubeflow Pipelines is, and who asks.

    kfp looks in this order: a token, an Identity-Aware Proxy, a file with a token; in a pod without `host` the token
    that Kubeflow projects there; else the kubeconfig, through the API server's proxy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = _from(
        "KF_PIPELINES_ENDPOINT",
        "",
        "URL of Kubeflow Pipelines, as https://kubeflow.example.org/pipeline. Empty: in a pod its cluster's, else the "
        "kubeconfig's.",
    )
    ui_host: str = _from("KF_PIPELINES_UI_ENDPOINT", "", "URL of its web pages, for links; that of --host if not said.")
    namespace: str = _from(
        "KF_PIPELINES_NAMESPACE", "", "Your namespace. Empty where Kubeflow Pipelines has one for everybody."
    )
    kubeflow_namespace: str = _from(
        "KF_PIPELINES_INSTALLED_IN", "kubeflow", "The namespace that it is installed in; matters without --host."
    )
    token: SecretStr = _from(
        "KF_PIPELINES_TOKEN", SecretStr(""), "A bearer token. Others see what is typed: better in the variable."
    )
    token_file: str = _from(
        "KF_PIPELINES_SA_TOKEN_PATH", "", "A file with a service account's token, read anew for each request."
    )
    cookies: SecretStr = _from(
        "KF_PIPELINES_COOKIES", SecretStr(""), "Cookies of a session, as oauth2_proxy_kubeflow=…, from the browser."
    )
    client_id: str = _from("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID", "", "Client id of Google's Identity-Aware Proxy.")
    other_client_id: str = _from(
        "KF_PIPELINES_APP_OAUTH2_CLIENT_ID", "", "Client id of a desktop application that asks that proxy."
    )
    other_client_secret: SecretStr = _from(
        "KF_PIPELINES_APP_OAUTH2_CLIENT_SECRET", SecretStr(""), "The secret of that application."
    )
    proxy: str = _from("KF_PIPELINES_PROXY", "", "URL of an HTTP proxy on the way.")
    ca_cert: str = _from("KF_PIPELINES_CA_CERT", "", "Certificate of the authority that signed the host's own.")
    verify_ssl: bool = _from("KF_PIPELINES_VERIFY_SSL", True, "Whether to look at the host's certificate at all.")
    kube_context: str = _from("KF_PIPELINES_KUBE_CONTEXT", "", "Context of the kubeconfig; matters without --host.")

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Take what is given, and the rest from the environment.

        Raises:
          InputError: there is no such option, or a file that one names is not there.
        """
        variables = {name: variable(name) for name in cls.model_fields}
        found = {name: os.environ[v] for name, v in variables.items() if os.environ.get(v)}
        try:
            login = cls(**{**found, **given})
        except ValidationError as error:
            first = error.errors(include_input=False)[0]  # which may be a secret
            raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        for name in ("token_file", "ca_cert"):
            path = getattr(login, name)
            if path and not Path(path).is_file():
                raise InputError(f"--{name.replace('_', '-')} {path}: there is no such file")
        return login


def variable(name: str) -> str:
    """Name the environment variable of a field of `Login`."""
    extra = Login.model_fields[name].json_schema_extra
    return str(extra["variable"]) if isinstance(extra, dict) else ""
