# What the VM tests give the modules; the expected units beside this file are of the same settings.
{
  home-manager = {
    enable = true;
    # Spaces and percent signs are nothing special.
    storeDir = "/home/alice/100% sessions";
    sealAfter = 1;
  };

  nixos = {
    enable = true;
    storeDir = "%h/sessions";
    sealAfter = 1;
  };
}
