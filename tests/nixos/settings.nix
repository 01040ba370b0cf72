# What the VM tests give the modules; the expected units beside this file are of the same settings.
{
  home-manager = {
    enable = true;
    # Neither a space nor `%u` means anything in it.
    storeDir = "/home/alice/100%used sessions";
    sealAfter = 1;
  };

  nixos = {
    enable = true;
    storeDir = "%h/sessions";
    sealAfter = 1;
  };
}
