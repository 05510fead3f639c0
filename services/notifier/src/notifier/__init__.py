"""notifier: events come in, messages go out, once; every decision not to send is a row too.

In: topic `orders`. Out: mail over SMTP, topic `messages`.
Tables (schema notifier): orders (the projection), message (the journal), dispatcher, pause, suppression;
outbox, inbox, dead_event, timer.
A consumer never sends: it writes journal rows; the dispatcher claims them, marks each one durably before
the dot that hands it to the mail server, and records the answer.
"""
