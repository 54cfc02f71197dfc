"""The error tree and the exit codes that go with it.

WinnowError                       1  a bug, unless a leaf says otherwise
├── SettingInvalid                2  a setting, an argument or a rules file cannot be used
├── KafkaRefused                  3  Kafka said no
│   ├── KafkaAway                 3  it does not answer at present
│   ├── BrokerUnreachable         3
│   ├── TopicMissing              3
│   ├── TopicNotWritable          3
│   └── GateFenced                3  a twin instance took our transactional id
├── ModelRefused                  4  a checkpoint or the registry cannot be trusted
│   ├── VersionMissing            4
│   ├── FileChanged               4
│   ├── SignatureInvalid          4  a version that nobody signed whom the settings trust
│   ├── RegistryUnreachable       4  an object store that does not answer, or refuses
│   └── FingerprintDiffers        4
├── StoreTaken                    3  another review service writes into the store
├── DataRefused                   5  a data set cannot be read or trained on
└── BrokerNotStarted              3  the embedded Kafka did not come up
"""


class WinnowError(Exception):
    """Root of every error that winnow raises on purpose; the message is one sentence a user can act on."""

    exit_code = 1


class SettingInvalid(WinnowError):
    """A setting, argument or rules file cannot be used; names the value, the limit and the setting."""

    exit_code = 2


class KafkaRefused(WinnowError):
    """Kafka refused or cannot do what was asked."""

    exit_code = 3


class KafkaAway(KafkaRefused):
    """Kafka does not answer at present; the same call may succeed later."""


class BrokerUnreachable(KafkaRefused):
    """No broker answered within `kafka.connect_timeout_seconds`."""


class TopicMissing(KafkaRefused):
    """A topic named in the settings does not exist."""


class TopicNotWritable(KafkaRefused):
    """A whole output topic refuses writes, so no offset may move."""


class GateFenced(KafkaRefused):
    """Another gate uses the same group and instance."""


class SchemaRegistryAway(KafkaRefused):
    """The schema registry does not answer, or will not."""


class BrokerNotStarted(KafkaRefused):
    """The embedded Kafka could not be fetched, verified or started."""


class StoreTaken(WinnowError):
    """Another review service writes into this store now."""

    exit_code = 3


class ModelRefused(WinnowError):
    """A checkpoint, alias or registry cannot be used."""

    exit_code = 4


class VersionMissing(ModelRefused):
    """The registry has no such version or alias."""


class FileChanged(ModelRefused):
    """A file of a version is missing, extra or differs from its digest in the manifest."""


class SignatureInvalid(ModelRefused):
    """A version is not signed, or not by the key that the settings name."""


class RegistryUnreachable(ModelRefused):
    """The object store of `registry.url` does not answer, refuses the credentials, or has no such bucket."""


class FingerprintDiffers(ModelRefused):
    """The loaded model does not give the rewards that were recorded when it was published."""


class DataRefused(WinnowError):
    """A data set cannot be read, or holds nothing to learn from."""

    exit_code = 5
