"""Exported weights brought to a model hub, through huggingface_hub's own client and the login that it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from hornet.errors import UserError

# What its HTTP library raises, by way of its own error, since that library has had two names.
NETWORK_ERRORS: tuple[type[BaseException], ...] = (HfHubHTTPError.__bases__[0], OSError)


def require_login(api: HfApi) -> None:
    """Raise UserError if nothing could be pushed: offline, without a token, or with one that the hub does not know.

    Asked before an export, which may take minutes.
    """
    with _in_one_sentence(api, hint="or leave push_to out"):
        if constants.HF_HUB_OFFLINE:  # said first: who is logged out gets another error
            raise OfflineModeIsEnabled
        api.whoami()


def push(folder: Path, repository: str, *, public: bool, api: HfApi) -> str:
    """Upload an exported folder as one commit; return its address. Raises UserError if the hub does not take it."""
    with _in_one_sentence(api, hint=f"{folder} is complete: `hf upload {repository} {folder}` pushes it later"):
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported weights")
    return str(commit.commit_url)


@contextmanager
def _in_one_sentence(api: HfApi, *, hint: str) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(f"push_to: HF_HUB_OFFLINE forbids any connection; unset it, {hint}") from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"push_to: nobody is logged in to {api.endpoint}; run `hf auth login`, {hint}") from error
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"push_to: {api.endpoint} refuses; {hint} ({reason})") from error
    except NETWORK_ERRORS as error:
        raise UserError(f"push_to: {api.endpoint} cannot be reached ({error}); go online, {hint}") from error
