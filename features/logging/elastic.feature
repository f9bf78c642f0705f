Feature: Logs for Elasticsearch
  Where logs go to Elasticsearch, a line has the names of the Elastic Common Schema, so that its tools
  know what is a time, a level, a trace or an error (`HARKEN_LOG_FORMAT=ecs`).

  Rule: The same line under the names that Elastic's tools know

    Scenario: A tool call that fails is a document of the schema
      Given the setting HARKEN_LOG_FORMAT is "ecs"
      And an agent with a log
      When the agent's tool raises an error
      Then the document of "tool.failed" says
        | log.level                  | error                    |
        | message                    | tool failed: tool:search |
        | event.outcome              | failure                  |
        | error.type                 | ValueError               |
        | harken.data.tool_name      | search                   |
        | ecs.version                | 8.17.0                   |

  Rule: What a program logs cannot spoil the index

    Scenario: A field called like an object of the schema becomes a label
      Given an application with ECS logging
      When the application logs "disk full" with the host "web-1"
      Then the application's line "disk full" says
        | labels.host | web-1 |
        | host        |       |
