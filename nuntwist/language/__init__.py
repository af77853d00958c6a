"""NQL, the language of clients, as pure functions: no socket, no state, no clock.

``framing`` cuts bytes into command texts, ``commands`` is the table of all commands,
``parser`` turns a text into a request by that table, ``replies`` turns outcomes and events
into the bytes of a dialect, and ``docs`` prints the table as a page.
"""
