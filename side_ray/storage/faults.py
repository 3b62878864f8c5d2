"""Errors of S3 and of the connection to it: which are transient, and a one-line explanation of each."""

from boto3.exceptions import Boto3Error
from botocore import exceptions as aws
from botocore.exceptions import BotoCoreError, ClientError

from side_ray.errors import RunError

FAULTS = (BotoCoreError, ClientError, Boto3Error)
BROKEN_BODY = (aws.ReadTimeoutError, aws.ResponseStreamingError, aws.IncompleteReadError, aws.FlexibleChecksumError)
UNREACHABLE = (aws.EndpointConnectionError, aws.ConnectTimeoutError, aws.SSLError)
PASSING = (
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "RequestLimitExceeded",
    "RequestTimeout",
    "TooManyRequests",
)
ABSENT = ("NoSuchKey", "NotFound", "404")

_KEYS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE"
_RENEW = "renew the credentials and run the same command again; finished work is kept"
CAUSES = {
    "InvalidAccessKeyId": ("the server does not know the access key", _KEYS),
    "SignatureDoesNotMatch": ("the secret key does not match the access key", _KEYS),
    "AccessDenied": ("access denied", f"{_KEYS}, and that they may list, read, write and delete in this bucket"),
    "ExpiredToken": ("the session token has expired", _RENEW),
    "TokenRefreshRequired": ("the session token has expired", _RENEW),
    "RequestExpired": ("the request or its credentials have expired", _RENEW),
    "InvalidToken": ("the session token is not valid", "check AWS_SESSION_TOKEN, or unset it for permanent keys"),
    "RequestTimeTooSkewed": ("this machine's clock differs too much from the server's", "set the clock"),
    "NoSuchBucket": ("there is no such bucket", "create it, or check the URI and storage.endpoint"),
    "InvalidBucketName": ("the bucket's name is not valid", "check the URI"),
    "PermanentRedirect": ("the bucket is in another region", "set AWS_REGION to the bucket's region"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "set AWS_REGION to the bucket's region"),
    "QuotaExceeded": ("the storage quota is used up", "free some space or choose another run.uri"),
    "InsufficientStorage": ("the server is full", "free some space or choose another run.uri"),
    "EntityTooLarge": ("the object is too large for one put", "choose a smaller extract.shard_size"),
}
SAME_AS = {
    "403": "AccessDenied",
    "Forbidden": "AccessDenied",
    "AllAccessDisabled": "AccessDenied",
    "ExpiredTokenException": "ExpiredToken",
    "301": "PermanentRedirect",
    "IllegalLocationConstraintException": "PermanentRedirect",
    "507": "InsufficientStorage",
    "XMinioStorageFull": "InsufficientStorage",
}
NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.ProfileNotFound,
)


def code_of(error: BaseException) -> str:
    """The error code that S3 answered with, "" if it did not answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_passing(error: Exception) -> bool:
    """Whether the error is transient: the server was reached, and the same request may succeed a moment later."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code_of(error) in PASSING or (status >= 500 and status not in (501, 505, 507))
    return isinstance(error, (*BROKEN_BODY, aws.HTTPClientError))


def is_broken_body(error: Exception) -> bool:
    """Whether the response was interrupted or damaged after its header."""
    return isinstance(error, BROKEN_BODY)


def is_conflict(error: Exception) -> bool:
    """Whether a conditional put collided with another one and should be repeated."""
    return code_of(error) == "ConditionalRequestConflict"


def explained(error: Exception, action: str, endpoint: str) -> RunError:
    """One line with the action, the object, the endpoint, the cause and the remedy. It contains no secrets."""
    # boto3 wraps errors of a transfer.
    inner = error.__context__ if isinstance(error, Boto3Error) and error.__context__ else error
    code = SAME_AS.get(code_of(inner), code_of(inner))
    if code in CAUSES:
        cause, remedy = CAUSES[code]
        cause = f"{cause} ({code})"
    elif isinstance(inner, aws.ProxyConnectionError):
        cause, remedy = "no connection to the proxy", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    elif isinstance(inner, UNREACHABLE):
        kind = "its certificate is not trusted" if isinstance(inner, aws.SSLError) else "no connection"
        cause, remedy = kind, "check storage.endpoint, AWS_ENDPOINT_URL and the network"
    elif isinstance(inner, aws.ReadTimeoutError):
        cause, remedy = "it does not respond in time", "check storage.endpoint and the network, or try again later"
    elif isinstance(inner, NO_CREDENTIALS):
        cause, remedy = "no usable credentials were found", _KEYS
    elif isinstance(inner, Exception) and is_passing(inner):
        cause, remedy = f"it still fails after several attempts ({code or type(inner).__name__})", "try again later"
    else:
        cause, remedy = " ".join(str(inner).split())[:300], "check the URI and storage.endpoint"
    return RunError(f"cannot {action} at {endpoint}: {cause}; {remedy}")
