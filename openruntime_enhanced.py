"""The same app with every optional part required: `uvicorn openruntime_enhanced:app`. A missing extra is an error here."""

from openruntime.core.api import create_app

app = create_app()
