"""A plug-in that cannot be imported, as after a third party's dependency went missing; it defines no method."""

raise ImportError("needs the library nowhere-to-be-found")
