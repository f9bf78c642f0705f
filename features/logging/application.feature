Feature: The whole application logs alike
  An agent is more than its events: libraries log, programs warn, and errors escape.
  One call gives every line of the application the form and the ids of the event log, whether it
  comes from the standard library's logging, from structlog, or from an error that nobody caught.

  Rule: A log call carries the ids of the work it is part of

    Scenario Outline: A line logged through <library> inside a tool call leads to that call
      Given an application with JSON logging
      And a listener to "tool.started"
      When a tool in run "r-42" logs "reading invoices" through <library>
      Then the application's line "reading invoices" says
        | level  | info |
        | run_id | r-42 |
      And the application's line "reading invoices" has the trace and the span that the listener heard

      Examples:
        | library              |
        | the standard library |
        | structlog            |

  Rule: No secret and no local variable gets into a line

    Scenario: A secret in a log message is taken out
      Given an application with JSON logging
      When the application logs "token=abcd1234efgh5678 accepted"
      Then the application's log does not mention "abcd1234efgh5678"

    Scenario: An error that nobody caught is one line, without local variables
      Given a program that dies of an error with a secret in a local variable
      When the program runs and fails
      Then standard error has one JSON line, "uncaught exception", with "ValueError" as its "error.type"
      And standard error does not mention "s3cr3t-value"

  Rule: A log call never fails

    Scenario: An object that cannot be printed does not stop the application
      Given an application with JSON logging
      When the application logs an object that cannot be printed
      Then the application was not disturbed
      And every line of the application's log is one JSON object
