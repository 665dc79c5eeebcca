"""The exception tree.

    ChatwrightError (a ValueError)          exit code 1
    |-- SettingsError                       exit code 2   a recipe or an option is wrong
    |-- DataError                           exit code 1   a row, file or dialogue is wrong
    |   `-- TemplateError                   exit code 1   a chat template cannot mark answers
    |-- ModelError                          exit code 1   a model does not fit its use
    |-- ArtifactError                       exit code 1   a folder on disk is damaged or of another kind
    |   `-- InputsChangedError              exit code 1   finished (or begun) work came from other inputs
    |-- NonFiniteError                      exit code 1   a loss or gradient is NaN or infinite
    |-- StorageError                        exit code 1   the disk refused a write
    `-- WaitingForPeople                    exit code 3   nothing to do until people have judged

Each message is one line that says what was found, what was expected and what to do.
"""


class ChatwrightError(ValueError):
    """Something a user can put right. Its text is shown as it is, without a traceback."""

    exit_code = 1


class SettingsError(ChatwrightError):
    """A recipe, a `key=value` or a command-line option is wrong."""

    exit_code = 2


class DataError(ChatwrightError):
    """A row, a file or a dialogue is wrong. The text names file and line where there is one."""


class TemplateError(DataError):
    """A chat template does not let the assistant's tokens be told from the rest."""


class ModelError(ChatwrightError):
    """A model, reward model or tokenizer does not fit the use made of it."""


class ArtifactError(ChatwrightError):
    """A folder on disk is damaged, incomplete or of another kind."""


class InputsChangedError(ArtifactError):
    """Work found on disk was made from other inputs or settings than those asked for now."""


class NonFiniteError(ChatwrightError):
    """A loss or gradient is NaN or infinite. Raised before the optimiser step, with the batch's ids."""


class StorageError(ChatwrightError):
    """The disk refused a write (full, read-only, no permission). Nothing half-written is left."""


class WaitingForPeople(ChatwrightError):
    """The next step needs judgements that people have not given yet. Run the same command again later."""

    exit_code = 3
