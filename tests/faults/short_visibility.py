"""The product's app with a visibility timeout of 2 s, looked after each second: messages come again all the time."""

from reprieve.workers.app import app

app.conf.broker_transport_options = {
    **app.conf.broker_transport_options,
    "visibility_timeout": 2,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
