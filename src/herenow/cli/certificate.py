"""The certificate that a server shows: can it be used?"""

import ssl

from herenow.errors import SettingsInvalid
from herenow.settings import Settings


def check_certificate(settings: Settings) -> None:
    """See that the certificate can be used, before anything else is touched and without asking at the terminal.

    Raises:
        SettingsInvalid: it cannot; the sentence names the file.
    """
    if settings.tls_certfile is None:
        return
    cert_file, key_file = settings.tls_certfile, settings.tls_keyfile or settings.tls_certfile
    given = settings.tls_keyfile_password
    try:
        for file in (cert_file, key_file):
            file.open("rb").close()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert_file, key_file, "" if given is None else given.get_secret_value())
    except ssl.SSLError as error:
        if b"ENCRYPTED" not in key_file.read_bytes():
            sentence = f"{cert_file} and {key_file} are not a certificate and its private key in PEM"
        elif given is None:
            sentence = f"the key {key_file} is encrypted: set tls_keyfile_password"
        else:
            sentence = f"the key {key_file} does not open with tls_keyfile_password"
        raise SettingsInvalid(sentence) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsInvalid(f"tls_certfile or tls_keyfile: {error.filename or key_file}: {reason}") from error
    except ValueError as error:  # longer than OpenSSL takes
        raise SettingsInvalid(f"tls_keyfile_password cannot be used: {error}") from error
