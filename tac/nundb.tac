"""A node as a Twisted application: ``twistd -ny tac/nundb.tac``.

All settings come from the environment (NUN_USER, NUN_PWD, ...: see docs/configuration.md).
"""

import sys

from twisted.application.service import Application

from nuntwist.tap import make_tac_service

application = Application("nundb")
make_tac_service(sys.argv[1:]).setServiceParent(application)
