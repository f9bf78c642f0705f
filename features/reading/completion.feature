Feature: Complete commands in the shell
  `harken completion` prints a script for bash, zsh or fish.

  Rule: There is a script for each shell

    Scenario Outline: The script of <shell>
      When the operator runs `harken completion <shell>`
      Then the exit code is 0
      And standard output mentions "_HARKEN_COMPLETE"

      Examples:
        | shell |
        | bash  |
        | zsh   |
        | fish  |
