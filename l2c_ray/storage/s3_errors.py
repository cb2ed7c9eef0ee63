"""What boto3 raises, as this package's errors: refused, or not answered, which is worth another attempt."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError, NoCredentialsError
from botocore.exceptions import ConnectionError as NoConnectionError

from l2c_ray.errors import StorageError, UnreachableError

_PASSING = {"SlowDown", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict"}
"""Refusals that say to try again."""
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@contextmanager
def typed_errors(subject: str, server: str) -> Iterator[None]:
    """Names the subject, and never shows what a server says about keys.

    Raises:
        StorageError: S3 refuses or cannot be used.
        UnreachableError: it does not answer or does not work just now.
    """
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if status_of(error) == 429 or (status_of(error) >= 500 and code != "NotImplemented") or code in _PASSING:
            raise UnreachableError(subject, f"S3 at {server} does not work ({code})", "try again later") from error
        if status_of(error) == 403:
            remedy = f"check {_KEYS}, and what their owner may do"
            raise StorageError(subject, f"S3 does not let you in ({code})", remedy) from error
        problem = f"S3 refuses it ({code}: {error.response['Error'].get('Message')})"
        raise StorageError(subject, problem, "check the bucket and the AWS_* variables") from error
    except (HTTPClientError, NoConnectionError, IncompleteReadError) as error:
        problem = f"S3 does not answer at {server} ({type(error).__name__})"
        raise UnreachableError(subject, problem, "check AWS_ENDPOINT_URL, or try again later") from error
    except NoCredentialsError as error:
        raise StorageError(subject, "there are no keys for S3", f"set {_KEYS}") from error
    except (BotoCoreError, ValueError) as error:
        # ValueError: an endpoint or a region that is none.
        raise StorageError(subject, f"S3 cannot be used ({error})", "set the AWS_* variables") from error


def status_of(error: ClientError) -> int:
    """The HTTP status of what S3 answered."""
    return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """What S3 calls the error."""
    return str(error.response["Error"].get("Code"))
