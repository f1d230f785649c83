"""What `reprieve doctor` looks at, a file for each subject. A check looks at one thing and says one sentence."""

#: Whether what a check found is well, and a sentence, which says what to do where it is not.
Found = tuple[bool, str]
