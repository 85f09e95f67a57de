"""What the field `model` of a request means: the base, or a version of an adaptation."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunewise.errors import AdaptationError, NotRegisteredError, RegistryError
from tunewise.serve.contract import Engine, Ready
from tunewise.serve.http.calls import require
from tunewise.serve.http.problems import ServingError
from tunewise.serve.http.shelf import Choice, Hold, Shelf
from tunewise.serve.tenants.records import BASE, Principal, Right

BASE_NAME = "base"
MOST_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Model:
    """What answers a request.

    Attributes:
        tenant: who asks, which is whose adaptation it is.
        label: "tenant/name@3", or the base's name.
        name: "tenant/name", or "@base", under which usage is counted.
        choice: the version; None for the base alone.
        hold: its files; None for the base alone.
        key: under which the version was drawn.
    """

    tenant: str
    label: str
    name: str
    choice: Choice | None = None
    hold: Hold | None = field(repr=False, default=None)
    key: str | None = None

    def ready(self, engine: Engine) -> Ready:
        """It, in the engine's memory.

        Raises:
            ServingError: it cannot be read, is damaged, or the engine cannot carry it.
        """
        if self.choice is None or self.hold is None:
            return engine.base_alone(self.tenant)
        try:
            return engine.ready(self.tenant, self.choice.digest, self.hold.load)
        except AdaptationError as error:
            raise ServingError(
                f"{self.label} cannot be served now", found=str(error), fix="see the server's log"
            ) from error

    def release(self) -> None:
        """The request has ended."""
        if self.hold is not None:
            self.hold.release()


def is_base(engine: Engine, reference: str) -> bool:
    """Whether a reference names the base alone."""
    return reference in (BASE_NAME, BASE, engine.base.name)


def choose(
    engine: Engine, shelf: Shelf, principal: Principal, reference: str, key: str | None
) -> Model:
    """What a request gets.

    Args:
        engine: knows the base.
        shelf: knows the adaptations.
        principal: who asks.
        reference: "tenant/name", with "@" and a version behind it, or the base.
        key: the same key gets the same version where an alias splits its traffic.

    Raises:
        ForbiddenError: the key may not use this; nothing was looked up.
        NotRegisteredError: there is none, or it is another tenant's: the same words after the
            same work.
    """
    if is_base(engine, reference):
        require(principal, Right.USE, BASE)
        return Model(principal.tenant, engine.base.name, BASE)
    tenant, name, version = _split(reference, principal.tenant)
    own = tenant == principal.tenant
    if own:
        require(principal, Right.USE, name)
    try:
        # What is another tenant's is looked for among one's own: its place is never touched.
        choice = shelf.choose(principal.tenant, name, version, key)
    except RegistryError as error:
        if own and not isinstance(error, NotRegisteredError):
            raise  # it is retired, for example
        raise _no_such_model(reference, principal.tenant) from error
    if not own:
        raise _no_such_model(reference, principal.tenant)
    return Model(tenant, str(choice), f"{tenant}/{name}", choice, shelf.hold(choice), key)


def _split(reference: str, asker: str) -> tuple[str, str, str]:
    """Tenant, name and version of a reference; the version is "" where none is given.

    Args:
        reference: as asked.
        asker: the tenant who asks.

    Raises:
        NotRegisteredError: it cannot name anything.
    """
    path, mark, version = reference.partition("@")
    tenant, slash, name = path.partition("/")
    if not (tenant and slash and name) or "/" in name or (mark and not version):
        raise _no_such_model(reference, asker)
    return tenant, name, version


def _no_such_model(reference: str, asker: str) -> NotRegisteredError:
    """The one error for what is not there, not yours, or no name at all; it names only who asks."""
    return NotRegisteredError(
        "this model does not exist, or your key may not see it",
        found=reference[:MOST_CHARACTERS],
        expected="tenant/name@version, tenant/name@alias, the base, or tenant/name, which is the "
        "version that was promoted",
        fix=f"GET /v1/models lists what your key, of the tenant {asker!r}, may use; where no "
        "version was promoted, name one, such as tenant/name@1, or promote it",
    )
