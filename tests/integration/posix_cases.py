"""posix_cases: what a Linux program expects of a filesystem, as a table of small functions.

Each case_X(d) works in the empty directory `d`, asserts what must hold everywhere, and returns a value that is compared with
the one it returned on the host's ext4: so each difference between the two is seen, also where nobody thought of asserting.
"""

import posix_attrs
import posix_data
import posix_names


def all_cases():
    """The cases of all three, in the order of their names."""
    cases = {name[5:]: call for module in (posix_attrs, posix_data, posix_names)
             for name, call in vars(module).items() if name.startswith("case_")}
    return dict(sorted(cases.items()))
